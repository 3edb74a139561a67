"""The networks that models are made of, and readers of published checkpoints."""
