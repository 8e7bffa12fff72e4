"""The fixtures of this floor."""

from tests.support.books import books, database_url, postgres_books, sqlite_books

__all__ = ["books", "database_url", "postgres_books", "sqlite_books"]
