"""The rewrites of export/rewrite.py, one family a file, and what they share."""
