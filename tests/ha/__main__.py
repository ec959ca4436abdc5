"""Runs the tests with two nodes: `python3 tests/ha [--list] [PATTERN...]`; a pattern is a part of a test's name.

HAProxy, keepalived, rsyslog and Postfix are real, in network namespaces of their own. The helpers are those of the lab. The
last line is `N passed, N failed`. Needs root, and what `tests/run` installs.
"""

import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "lab")]

from runner import main  # noqa: E402

sys.exit(main(HERE, sys.argv[1:]))
