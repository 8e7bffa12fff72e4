"""An image engine in a child process, so that its crashes, hangs and memory do not affect the server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from functools import partial
from importlib import import_module
from itertools import count
from typing import Any

import msgspec

from minitoolai.core.catalog.suppliers import THE_ENGINE
from minitoolai.core.errors import EngineError, EngineLost, EngineRefused
from minitoolai.engines.child_process import POLL_S, HeartbeatMonitor
from minitoolai.engines.host import ChildHost, EngineHost, MakeHost
from minitoolai.engines.images.child import Add, Event, Generated, Heartbeat, Loaded, LoadEngine, Progress, Remove
from minitoolai.engines.protocols import BatchEngine, GeneratedImage, ImageRequest, OnProgress

log = logging.getLogger(__name__)

#: Kill and restart a child that sends nothing, not even heartbeats, for this long.
SILENCE_S = 10.0
#: Do the same if images are in flight and no model call completes for this long.
CALL_TIMEOUT_S = 300.0
#: Limits for the first heartbeat, and for loading.
START_SILENCE_S = 30.0
START_TIMEOUT_S = 600.0


class EngineProcess:
    """One batch engine in a child, which its host runs.

    Images with the same batch key share model calls, joining and leaving between them.

    The engine's module provides `make_batch_engine(config) -> BatchEngine`; `config` is plain data, because it is sent
    to the child.
    """

    module = "minitoolai.engines.images.child"
    max_images = 1

    def __init__(
        self,
        name: str,
        engine_module: str,
        config: dict[str, Any],
        *,
        max_concurrency: int,
        silence_s: float = SILENCE_S,
        call_timeout_s: float = CALL_TIMEOUT_S,
        make_host: MakeHost = ChildHost,
    ) -> None:
        self.name = name
        self.host: EngineHost = make_host(name, self.module, self, max_concurrency)
        self.check_every_s = POLL_S
        self._decode = msgspec.msgpack.Decoder(Event).decode
        self.max_concurrency = max_concurrency
        self._load = LoadEngine(engine_module, config)
        #: A second instance in this process, for `why_not_ready` and `batch_key` only.
        self._engine: BatchEngine = import_module(engine_module).make_batch_engine(config)
        self._hangs = HeartbeatMonitor(silence_s, call_timeout_s)
        self._loaded: asyncio.Future[Loaded] | None = None
        self._in_flight: dict[int, _InFlightImage] = {}
        self._ids = count(1)
        self._calls = 0

    @property
    def is_up(self) -> bool:
        return self.host.is_up

    @property
    def is_idle(self) -> bool:
        """Return True if no image is in flight."""
        return not self._in_flight

    @property
    def restarts(self) -> int:
        """Return how often the child was restarted."""
        return self.host.restarts

    @property
    def pid(self) -> int | None:
        """Return the process ID of the child, for tests that kill it."""
        return self.host.pid

    def why_not_ready(self, model: str) -> str | None:
        return self._engine.why_not_ready(model)

    def lora_names(self, model: str) -> Collection[str] | None:
        return self._engine.lora_names(model)

    def batch_key(self, model: str, width: int, height: int) -> str:
        return self._engine.batch_key(model, width, height)

    async def generate(self, model: str, request: ImageRequest, on_progress: OnProgress) -> GeneratedImage:
        if not self.is_up:
            raise self._drop_error(f"{THE_ENGINE} is starting; retry in a moment", retry_after_s=2)
        number, image = next(self._ids), _InFlightImage(on_progress)
        if not self._in_flight:
            self._hangs.record_progress()
        self._in_flight[number] = image
        try:
            self.host.send(Add(number, model, self.batch_key(model, request.width, request.height), request))
            return await image.result
        except asyncio.CancelledError:
            self.host.send(Remove(number))
            raise
        finally:
            self._in_flight.pop(number, None)

    async def start(self) -> None:
        await self.host.start()

    async def stop(self) -> None:
        await self.host.stop()
        self._fail_all(self._drop_error, f"{THE_ENGINE} has stopped")

    async def load(self) -> None:
        """Let a new child load the engine. Called by the host."""
        loop = asyncio.get_running_loop()
        self._loaded, self._calls = loop.create_future(), 0
        self._hangs.reset()
        self.host.send(self._load)
        started_s = loop.time()
        while not self._loaded.done():
            await asyncio.wait([self._loaded], timeout=POLL_S)
            silent_s, so_far_s = self._hangs.silent_s(), loop.time() - started_s
            if not self._loaded.done() and (silent_s > START_SILENCE_S or so_far_s > START_TIMEOUT_S):
                self.host.kill()
                self._loaded.set_result(
                    Loaded(f"it sent nothing for {silent_s:.0f} s, {so_far_s:.0f} s after its start")
                )
        if error := self._loaded.result().error:
            raise EngineError(f"{self.name} could not be loaded: {error}")
        self._hangs.reset()

    def why_hung(self) -> str | None:
        """Return why the child counts as hanging, or None. Called by the host."""
        reason = self._hangs.describe_hang(has_work=bool(self._in_flight))
        return reason if self.host.is_up else None

    def on_event(self, message: bytes) -> None:
        """Handle an event of the child. Called by the host."""
        event = self._decode(message)
        self._hangs.record_message()
        if isinstance(event, Heartbeat):
            if event.calls != self._calls:
                self._calls = event.calls
                self._hangs.record_progress()
            return
        self._hangs.record_progress()
        if isinstance(event, Loaded):
            if self._loaded is not None and not self._loaded.done():
                self._loaded.set_result(event)
            return
        image = self._in_flight.get(event.id)
        if image is None or image.result.done():
            return
        if isinstance(event, Progress):
            image.on_progress(event.step, event.steps)
        elif isinstance(event, Generated):
            image.result.set_result(GeneratedImage(png=event.png, model=event.model))
        elif event.refused:
            image.result.set_exception(EngineRefused(event.error))
        else:
            log.error("%s failed: %s", self.name, event.error)
            image.result.set_exception(EngineError(f"{THE_ENGINE} failed"))

    def on_end(self, *, is_lost: bool) -> None:
        """Fail the images in flight. Called by the host."""
        if self._loaded is not None and not self._loaded.done():
            self._loaded.set_result(Loaded("its process died"))
        if is_lost:
            self._fail_all(partial(EngineLost, under_way=True), f"{THE_ENGINE} was lost with its machine")
        else:
            self._fail_all(EngineError, f"{THE_ENGINE} failed during generation")

    @property
    def _drop_error(self) -> type[EngineError]:
        """Return the kind of error for an image that this engine did not begin or finish, for a reason of its own."""
        return EngineLost if self.host.is_remote else EngineError

    def _fail_all(self, kind: Callable[..., EngineError], message: str) -> None:
        for image in self._in_flight.values():
            if not image.result.done():
                image.result.set_exception(kind(message, retry_after_s=2))


class _InFlightImage:
    """An image that a caller waits for."""

    __slots__ = ("on_progress", "result")

    def __init__(self, on_progress: OnProgress) -> None:
        self.result: asyncio.Future[GeneratedImage] = asyncio.get_running_loop().create_future()
        self.on_progress = on_progress
