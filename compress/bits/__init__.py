"""Bits per layer: what each layer's quantisation costs, and widths for all layers in a budget."""
