"""The fixtures of this floor."""

from tests.support.books import books

__all__ = ["books"]
