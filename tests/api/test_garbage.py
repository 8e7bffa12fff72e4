"""A request that is over leaves nothing for Python's garbage collector, which would stop everybody to find it."""

from __future__ import annotations

import asyncio
import gc
import weakref
from pathlib import Path

import pytest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from minitoolai.app import Server
from minitoolai.settings import Settings
from minitoolai.wiring import build
from tests.api.test_direct import Cycle


@pytest.mark.filterwarnings("ignore::litestar.exceptions.LitestarDeprecationWarning")
@pytest.mark.parametrize("path", ["/api/chat-completions/", "/healthz"])
def test_what_a_request_was_is_gone_as_it_ends(tmp_path: Path, path: str) -> None:
    server = Server(build(Settings(data_dir=tmp_path)))

    async def ask() -> weakref.ref[RequestResponseCycle]:
        one = Cycle(method="GET", path=path)
        await one.cycle.run_asgi(server)  # type: ignore[arg-type]
        assert one.wire.data.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 405 ")), one.wire.data
        return weakref.ref(one.cycle)

    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(ask())() is None
    finally:
        gc.enable()
