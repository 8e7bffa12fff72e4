"""A request that is over leaves nothing for Python's garbage collector, which would stop everybody to find it."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from pathlib import Path
from typing import Any

import pytest
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from minitoolai.app import Server
from minitoolai.settings import Settings
from minitoolai.wiring import build
from tests.api.test_direct import Wire


@pytest.mark.filterwarnings("ignore::litestar.exceptions.LitestarDeprecationWarning")
@pytest.mark.parametrize("path", ["/api/chat-completions/", "/healthz"])
def test_what_a_request_was_is_gone_as_it_ends(tmp_path: Path, path: str) -> None:
    server = Server(build(Settings(data_dir=tmp_path)))

    async def ask() -> weakref.ref[RequestResponseCycle]:
        wire, log = Wire(), logging.getLogger("nobody")
        scope: Any = {"type": "http", "http_version": "1.1", "method": "GET", "path": path, "headers": []}
        cycle = RequestResponseCycle(
            scope=scope | {"query_string": b""},
            transport=wire,
            flow=FlowControl(wire),
            logger=log,
            access_logger=log,
            access_log=False,
            default_headers=[],
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=True,
            on_response=lambda: None,
        )
        await cycle.run_asgi(server)  # type: ignore[arg-type]
        assert wire.data.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 405 ")), wire.data
        return weakref.ref(cycle)

    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(ask())() is None
    finally:
        gc.enable()
