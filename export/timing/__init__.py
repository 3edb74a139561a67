"""How long exported graphs take, measured here side by side, or predicted for phones."""
