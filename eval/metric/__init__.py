"""Image quality metrics: which there are, where their weights come from, how they are computed."""
