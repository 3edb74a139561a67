"""compress/process/strips.py under the name that it has in an exported folder, where a copy takes this file's place."""

from compress.process.strips import *  # noqa: F403
