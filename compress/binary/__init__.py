"""Layers with weights of one or two bits."""
