"""Runs the lab: `python3 tests/lab [--list] [PATTERN...]`; a pattern is a part of a test's name.

The last line is `N passed, N failed`. Needs root, and what `tests/run` installs.
"""

import pathlib
import sys

from runner import main

sys.exit(main(pathlib.Path(__file__).parent, sys.argv[1:]))
