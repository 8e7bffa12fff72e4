"""The longest pause of the event loop, and who caused it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from minitoolai.http.types import Receive, Scope, Send
from minitoolai.observability import watchdog
from minitoolai.observability.watchdog import LIMIT_S, WINDOW_S, WINDOWS, Watchdog
from tests.http.serving.test_fast_path import Wire


def route_of(scope: Scope) -> str | None:
    return "/v1/models/{name}" if scope["path"].startswith("/v1/models/") else None


def watch(work: Callable[[], Coroutine[Any, Any, None]], log_every_s: float = 10.0) -> float:
    """Do the work on a loop that is watched. Return its longest pause."""

    async def both() -> float:
        dog = Watchdog(route_of, log_every_s=log_every_s)
        running = asyncio.ensure_future(dog.run())
        await asyncio.sleep(0.05)
        await asyncio.ensure_future(work())
        await asyncio.sleep(0.05)
        running.cancel()
        await asyncio.wait([running])
        return dog.longest_s()

    return asyncio.run(both())


def spin(seconds: float) -> None:
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        pass


def cycle(path: str, app: Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]) -> Coroutine[Any, Any, None]:
    """A request that uvicorn serves with this app."""
    wire, log = Wire(), logging.getLogger("nobody")
    made = RequestResponseCycle(
        scope={"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b"secret=1"},  # type: ignore[arg-type, typeddict-item]
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
    return made.run_asgi(app)  # type: ignore[arg-type]


def pauses(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == watchdog.log.name]


@pytest.mark.parametrize(
    ("path", "told"), [("/v1/models/quick?x", "GET /v1/models/{name}"), ("/secret/path", "GET a path without a route")]
)
def test_the_route_of_a_request_that_holds_the_loop_is_logged(
    caplog: pytest.LogCaptureFixture, path: str, told: str
) -> None:
    async def inner() -> None:
        await asyncio.sleep(0)
        spin(0.4)

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await inner()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    assert watch(lambda: cycle(path, app)) > 0.35
    (line,) = pauses(caplog)
    assert told in line
    assert "spin" in line
    assert "secret" not in line


def test_work_in_a_task_is_named_by_its_function(caplog: pytest.LogCaptureFixture) -> None:
    ours: dict[str, Any] = {"__name__": "minitoolai.made_up", "spin": spin}
    exec("async def sweep():\n    spin(0.3)\n", ours)
    assert watch(ours["sweep"]) > 0.25
    (line,) = pauses(caplog)
    assert "by sweep in sweep (minitoolai.made_up:2)" in line


def test_short_work_is_not_logged_but_measured(caplog: pytest.LogCaptureFixture) -> None:
    async def short() -> None:
        for _ in range(5):
            spin(0.06)
            await asyncio.sleep(0.03)

    longest_s = watch(short)
    assert longest_s > 0.03
    # On a busy machine the loop may have waited for its turn as well.
    assert (longest_s > LIMIT_S) == bool(pauses(caplog))


def test_many_pauses_make_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    async def often() -> None:
        for _ in range(6):
            spin(0.15)
            await asyncio.sleep(0.05)

    watch(often, log_every_s=0.7)
    first, *others = pauses(caplog)
    assert "more pauses" not in first
    assert len(others) >= 1
    assert all("more pauses" in line for line in others)


def test_a_pause_is_remembered_for_a_minute() -> None:
    times_s = [1000.0]
    dog = Watchdog(route_of, now_s=lambda: times_s[-1])

    def pass_time(seconds: float) -> None:
        times_s.append(times_s[-1] + seconds)

    pass_time(3.02)
    dog.beat()
    assert dog.longest_s() == pytest.approx(3.0)
    pass_time(WINDOW_S * (WINDOWS - 1))
    assert dog.longest_s() == pytest.approx(3.0)
    pass_time(WINDOW_S)
    assert dog.longest_s() == 0.0
