"""Serve the description of the API at /openapi.json.

Written by hand in openapi.yaml, because no generator describes streams and the routes that bypass the framework.
`python -m tools.openapi` compiles it to the JSON beside it. Tests compare both files and the code.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, cast

from starlette.requests import Request
from starlette.responses import Response

from minitoolai.availability import Reports
from minitoolai.core.catalog.shop import Shop
from minitoolai.http.routing import json_response, reads

DOCUMENT = Path(__file__).parent / "openapi.json"


@reads("/openapi.json")
async def document(request: Request) -> Response:
    """Return the whole description."""
    return json_response(describe_for(cast(Reports, request.app.state.reports).catalog.shop))


@cache
def describe() -> dict[str, Any]:
    """Return the OpenAPI 3.1 description of everything that callers with keys can reach."""
    described: dict[str, Any] = json.loads(DOCUMENT.read_text("utf-8"))
    return described


def describe_for(shop: Shop) -> dict[str, Any]:
    """Return the same with the shop's name and the address for questions about it."""
    if not shop.is_own and not shop.support:
        return describe()
    info = {**describe()["info"], "title": shop.name}
    if shop.support:
        info["contact"] = {"name": shop.name, "email": shop.support}
    return {**describe(), "info": info}
