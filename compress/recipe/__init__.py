"""Recipes: reading them, costing them, running their passes, and the files that this leaves."""
