"""What only reads answers HEAD wherever it answers GET: monitors and load balancers ask that way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from litestar import HttpMethod, route


def reads(path: str) -> Callable[[Any], Any]:
    """A handler of GET and HEAD at this path."""
    return route(path, http_method=[HttpMethod.GET, HttpMethod.HEAD])
