"""Upscale photographs with this folder's model: python run.py IMAGE... [-o DIR]

The program is in host/.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

# Found through the line above; the type checker reads this file where host/ is not beside it.
from host.command import main  # type: ignore[import-not-found]

sys.exit(main())
