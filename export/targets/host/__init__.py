"""The program of an exported folder: copied beside run.py, it needs nothing of the toolkit."""
