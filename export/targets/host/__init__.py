"""The program of an exported folder: it is copied beside run.py and stands alone, without the toolkit."""
