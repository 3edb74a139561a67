"""Upscale photographs with the model in this folder: python run.py IMAGE... [-o DIR]; the program is in host/."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from host.command import main  # noqa: E402  found through the line above

sys.exit(main())
