"""Recognize a response that has text in place of audio, such as an error with status 200."""

from __future__ import annotations

import json

from minitoolai.core.errors import EngineError, ServiceError
from minitoolai.engines.chat.failures import failure_in_answer, find_fault

#: Bytes of a response that are enough to recognize text.
ENOUGH = 64
#: What JSON, HTML and XML begin with.
_BEGINNINGS = (b"{", b"[", b"<")
_TEXT_TYPES = ("application/json", "application/problem+json", "application/xml", "application/xhtml+xml")


def is_text_type(content_type: str) -> bool:
    """Return True for a content type that no audio has. Events are left out: they may hold audio."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind in _TEXT_TYPES or (kind.startswith("text/") and kind != "text/event-stream")


def looks_like_text(begin: bytes) -> bool:
    """Return True if a response that begins like this is JSON, HTML or XML, whatever its content type says.

    Plain samples may begin with any byte, so all of the beginning must be printable.
    """
    text = begin.removeprefix(b"\xef\xbb\xbf").lstrip()[:ENOUGH]
    if not text.startswith(_BEGINNINGS):
        return False
    # The last character may be cut off.
    shown = text.decode("utf-8", "ignore")
    return len(shown.encode()) >= len(text) - 3 and all(one.isprintable() or one.isspace() for one in shown)


def failure_of(body: bytes, label: str) -> ServiceError:
    """Return the error that this text describes, or that there was no audio."""
    try:
        value = json.loads(body.decode("utf-8", "replace").removeprefix("\ufeff"), strict=False)
    except (ValueError, RecursionError):
        value = None
    fault = find_fault(value)
    return EngineError(f"{label} sent no audio") if fault is None else failure_in_answer(fault, label)
