"""A search over recipes: what may vary, what is wanted, and workers that share one study."""
