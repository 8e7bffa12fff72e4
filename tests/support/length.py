"""The length of tests that take minutes: a short form in `make acceptance`, the whole of it in `make long`.

A short form is about the same fault: it is short of repetitions, not of kinds.
"""

from __future__ import annotations

import os

IS_LONG = bool(os.environ.get("TESTS_LONG"))


def length(short: int, whole: int) -> int:
    """Return how much of something a test does."""
    return whole if IS_LONG else short
