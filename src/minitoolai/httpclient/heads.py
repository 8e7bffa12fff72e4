"""Request heads: what is written before a body. Refuses whatever could smuggle a second header or request."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_METHOD = re.compile(r"[A-Z]+")
_UNCLEAN_URL = re.compile(r"[^\x21-\x7e]")
_UNCLEAN_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
#: These decide where a message ends: they are ours alone to write.
_FRAMING = frozenset({"content-length", "transfer-encoding", "connection", "keep-alive", "upgrade", "te", "trailer"})
_REMEMBERED = 256


class Origin(NamedTuple):
    """What a connection leads to."""

    is_tls: bool
    host: str
    port: int


class Heads:
    """Builds request heads and remembers the recent ones: one engine's headers are the same in every request."""

    def __init__(self, user_agent: str) -> None:
        self._defaults = {"user-agent": user_agent, "accept": "*/*", "accept-encoding": "identity"}
        self._known: dict[tuple[str, str, tuple[tuple[str, str], ...]], tuple[Origin, bytes]] = {}

    def build(self, method: str, url: str, headers: Mapping[str, str], body_bytes: int) -> tuple[Origin, bytes]:
        """Where to connect, and the head to write. ValueError where a part is not fit for a header."""
        key = (method, url, tuple(headers.items()))
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            found = self._known[key] = self._build(method, url, headers)
        origin, head = found
        if body_bytes or method not in ("GET", "HEAD"):
            return origin, b"%bcontent-length: %d\r\n\r\n" % (head, body_bytes)
        return origin, head + b"\r\n"

    def _build(self, method: str, url: str, headers: Mapping[str, str]) -> tuple[Origin, bytes]:
        if not _METHOD.fullmatch(method) or method == "CONNECT":
            raise ValueError(f"{method!r} is not a method to send")
        origin, authority, target = _take_apart(url)
        fields = {"host": authority, **self._defaults}
        for name, value in headers.items():
            if not _NAME.fullmatch(name) or name.lower() in _FRAMING:
                raise ValueError(f"{name!r} is not a header to set")
            if _UNCLEAN_VALUE.search(value):
                raise ValueError(f"the value of {name} has a control character")
            fields[name.lower()] = value
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), ""]
        return origin, "\r\n".join(lines).encode("latin-1")


def _take_apart(url: str) -> tuple[Origin, str, str]:
    """Origin, the value of `host`, and the request's target. The check comes first: urlsplit drops CR and LF."""
    if _UNCLEAN_URL.search(url):
        raise ValueError("the URL has a space, a control character or a letter that is not ASCII")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is not an http or https URL")
    if parts.username is not None or parts.password is not None:
        raise ValueError("the URL has a password in it; send an authorization header instead")
    is_tls = parts.scheme == "https"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    port = parts.port or (443 if is_tls else 80)
    return Origin(is_tls, parts.hostname, port), parts.netloc, target
