"""How an exchange with an engine can fail, and whether it may have been done all the same."""

from __future__ import annotations


class HttpError(Exception):
    """The root. `sent`: whether the request may have reached the server, and so may have been done and billed."""

    sent = True


class Unreachable(HttpError):  # a fact, not a category
    """Refused, no such name, TLS, or no connection in time: nothing was sent."""

    sent = False


class Silent(HttpError):  # a fact, not a category
    """No head in time, or too long a gap in the body."""


class Broken(HttpError):  # a fact, not a category
    """Closed early, not HTTP, or less than was promised."""
