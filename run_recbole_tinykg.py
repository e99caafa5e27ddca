"""Trains TinyKGAT on ml-100k, or what the arguments say; see `--help`.

The counterpart of RecBole's `run_recbole.py`, for a checkout of the sources.
"""

import sys

from recbole_tinykg.commands.cli import main

if __name__ == "__main__":
    sys.exit(main())
