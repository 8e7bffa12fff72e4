"""The fixtures of this floor."""

import pytest

pytest.register_assert_rewrite("tests.support")

from tests.support.books import books  # noqa: E402

__all__ = ["books"]
