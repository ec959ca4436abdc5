"""Runs the tests with two nodes: `python3 tests/ha [--list] [PATTERN...]`; a pattern is a part of a test's name.

HAProxy, keepalived, rsyslog and Postfix are real, in network namespaces of their own. The helpers are those of the lab. The
last line is `N passed, N failed`. Needs root, and what `tests/run` installs.
"""

import importlib.util
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
LAB = HERE.parent / "lab"
sys.path[:0] = [str(HERE), str(LAB)]


def lab():
    """The lab's runner."""
    spec = importlib.util.spec_from_file_location("lab", LAB / "__main__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


sys.exit(lab().main(sys.argv[1:], HERE))
