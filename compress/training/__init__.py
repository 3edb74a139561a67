"""Losses, discriminators and the training loop, for source models and for distillation alike."""
