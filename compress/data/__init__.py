"""Photographs for training and calibration, and the degradation that makes small ones of them."""
