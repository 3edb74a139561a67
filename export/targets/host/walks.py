"""Stands in for a copy of compress/process/walks.py, which an exported folder has in its place."""

from compress.process.walks import *  # noqa: F403  every name of it, as the copy has
