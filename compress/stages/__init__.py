"""The stages that source models are trained in, and the training of all stages of a recipe.

A stage is a class (base.py) that says its name, the families and the losses that it is for, and
what it is prepared with. registry.py lists all of them, recipe.py checks recipes against that
list, and trainer.py runs one stage after the other.
"""
