"""Losses, discriminators and the one training loop, for source models and for distillation alike.

session.py is the place to begin: it puts a stage, its optimisers and its critic together. loop.py
runs them, with checkpoints.
"""
