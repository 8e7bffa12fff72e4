"""Serve the description of the API at /openapi.json.

Written by hand in openapi.yaml, because no generator describes streams and the routes that bypass the framework.
`python -m tools.openapi` compiles it to the JSON beside it. Tests compare both files and the code.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from minitoolai.http.asgi import reads

DOCUMENT = Path(__file__).parent / "openapi.json"


@reads("/openapi.json")
async def document() -> dict[str, Any]:
    """Return the whole description."""
    return describe()


@cache
def describe() -> dict[str, Any]:
    """Return the OpenAPI 3.1 description of everything that callers with keys can reach."""
    described: dict[str, Any] = json.loads(DOCUMENT.read_text("utf-8"))
    return described
