"""Judge the keys and addresses that an operator sets, at the start: a mistake there would fail every request."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

_NOT_VISIBLE_ASCII = re.compile(r"[^\x21-\x7e]")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_NOT_IN_A_VALUE = re.compile(r"[^\x20-\x7e\t]")
#: Ends of a path that are added here to an address.
_ENDPOINTS = (
    "/chat/completions",
    "/completions",
    "/responses",
    "/embeddings",
    "/images/generations",
    "/audio/speech",
    "/moderations",
)


def why_bad_key(key: str) -> str | None:
    """Return what is wrong with an API key, which must never appear in the message, or None."""
    found = _NOT_VISIBLE_ASCII.search(key)
    if found is None:
        return None
    character = found[0]
    if character in "\r\n":
        what = "a line break"
    elif character.isspace():
        what = "a space"
    else:
        what = "a control character" if character.isascii() else "a character that is not ASCII"
    return f"the key contains {what}; copy it again"


def why_bad_address(address: str) -> str | None:
    """Return what is wrong with the address of a server, with the remedy, or None."""
    if _NOT_VISIBLE_ASCII.search(address):
        return "the address contains a space or a character that is not ASCII; write it like https://host/v1"
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "the address is not a valid URL; write it like https://host/v1"
    if parts.scheme not in ("http", "https") or not host:
        return "the address needs a scheme and a host; write it like https://host/v1"
    if "@" in parts.netloc:
        return "the address contains a user name or password; remove it, and set the API key instead"
    if parts.query or parts.fragment or address.endswith(("?", "#")):
        return "the address has a query or fragment, but paths are added to its end; remove everything from ? or # on"
    path = parts.path.rstrip("/")
    for endpoint in _ENDPOINTS:
        if path.endswith(endpoint):
            shorter = address.rstrip("/").removesuffix(endpoint)
            return f"the address ends in {endpoint}, which is added here; write only {shorter}"
    return None


def why_bad_headers(headers: Mapping[str, str]) -> str | None:
    """Return what is wrong with additional headers, or None."""
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            return f"{name!r} is not the name of a header"
        if name.lower() in ("host", "content-length", "transfer-encoding", "connection", "content-type"):
            return f"the header {name} is set by this server; remove it"
        if _NOT_IN_A_VALUE.search(value):
            return f"the value of the header {name} contains a line break or a character that is not ASCII"
    return None
