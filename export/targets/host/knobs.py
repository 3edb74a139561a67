"""Stands in for a copy of compress/process/knobs.py, which an exported folder has instead."""

from compress.process.knobs import *  # noqa: F403  every name of it, as the copy has
