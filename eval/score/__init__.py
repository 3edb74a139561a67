"""Measuring: restored images are scored, figures averaged, and what was measured once is kept."""
