"""The measurements, a file for each page of docs/results."""
