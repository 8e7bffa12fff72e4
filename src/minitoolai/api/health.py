"""Is it alive, and will requests be served."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response
from litestar.datastructures import State

from minitoolai.http.reading import reads


@reads("/healthz")
async def healthz() -> dict[str, str]:
    """200 while the process answers at all."""
    return {"status": "ok"}


@reads("/readyz")
async def readyz(request: Request[Any, Any, State]) -> Response[dict[str, str]]:
    """200 when requests will be served; 503 with the reason while they will not."""
    why_not = request.app.state.why_not_ready()
    if why_not is None:
        return Response({"status": "ready"})
    return Response({"status": "not ready", "reason": why_not}, status_code=503, headers={"retry-after": "2"})
