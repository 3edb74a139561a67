"""Stands in for a copy of compress/process/strength.py, which an exported folder has instead."""

from compress.process.strength import *  # noqa: F403  every name of it, as the copy has
