"""Runs the units under a booted systemd: `python3 tests/systemd [--list] [PATTERN...]`; a pattern is a part of a test's name.

Needs root, `systemd-nspawn` and `debootstrap`, which `tests/run` installs, and the binary that ships. The roots are made once,
in target/systemd, from Debian's mirror (DEBIAN_MIRROR names another one). The last line is `N passed, N failed`.
"""

import pathlib
import sys

HERE = pathlib.Path(__file__).parent
sys.path.append(str(HERE.parent / "lab"))

from runner import main  # noqa: E402

sys.exit(main(HERE, sys.argv[1:]))
