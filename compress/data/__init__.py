"""Photographs for training and calibration, and the degradation that makes low-resolution ones of them."""
