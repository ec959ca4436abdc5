"""Runs the tests of a folder: `[--list] [PATTERN...]`; a pattern is a part of a test's name.

The last line is `N passed, N failed`.
"""

import signal
import sys
import time
import unittest
import warnings


class Result(unittest.TestResult):
    """One line a test, its failure below it."""

    def __init__(self):
        super().__init__()
        self.passed = self.failed = 0

    def startTest(self, test):
        super().startTest(test)
        self.began, self.bad = time.monotonic(), False

    def stopTest(self, test):
        super().stopTest(test)
        self.failed += self.bad
        self.passed += not self.bad
        took = time.monotonic() - self.began
        print(f"test {title(test)} ... {'FAILED' if self.bad else 'ok'} ({took:.1f} s)", flush=True)

    def _bad(self, test, error):
        self.bad = True
        print(self._exc_info_to_string(error, test), flush=True)

    def addFailure(self, test, error):
        self._bad(test, error)

    def addError(self, test, error):
        self._bad(test, error)
        if not isinstance(test, unittest.TestCase):  # the world could not be built
            self.failed += 1

    def addSubTest(self, test, subtest, error):
        if error:
            self._bad(test, error)


def title(test):
    """`outbound.Refuses.expired_certificate`"""
    return test.id().removeprefix("test_").replace(".test_", ".")


def tests_in(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from tests_in(test)
        else:
            yield test


def main(here, arguments):
    """Runs the tests of the folder `here`; gives the exit code."""
    warnings.simplefilter("ignore", ResourceWarning)
    # However it is ended, what was made is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    patterns = [argument for argument in arguments if argument != "--list"]
    found = unittest.defaultTestLoader.discover(str(here), top_level_dir=str(here))
    tests = [test for test in tests_in(found) if not patterns or any(pattern in title(test) for pattern in patterns)]
    if "--list" in arguments:
        print("\n".join(title(test) for test in tests))
        return 0
    if not tests:
        print(f"no test of tests/{here.name} has that in its name")
    result = Result()
    began = time.monotonic()
    unittest.TestSuite(tests).run(result)
    print(f"{here.name}: {time.monotonic() - began:.0f} s\n{result.passed} passed, {result.failed} failed")
    return 1 if result.failed else 0
