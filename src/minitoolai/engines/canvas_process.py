"""An image engine in a child process: its crash, its hang, its memory are its own, and no chat waits for it."""

from __future__ import annotations

import asyncio
import logging
import sys
from importlib import import_module
from itertools import count
from typing import Any

import msgspec

from minitoolai.core.errors import EngineError, EngineRefused
from minitoolai.engines.base_images import CanvasEngine, DrawnImage, ImageRequest, OnProgress
from minitoolai.engines.canvas_desk import (
    HEAD,
    Add,
    Drawn,
    Heartbeat,
    Load,
    Loaded,
    News,
    Order,
    Progress,
    Remove,
    to_frame,
)
from minitoolai.engines.child_process import child_environment

log = logging.getLogger(__name__)

#: Nothing heard from the child for this long, not even its heart: it is killed and started again.
SILENCE_S = 10.0
#: Pictures are under way and no model call ended for this long: the same.
CALL_TIMEOUT_S = 300.0
#: Until its heart beats for the first time, and while it loads.
START_SILENCE_S = 30.0
START_TIMEOUT_S = 600.0
LONGEST_RESTART_S = 10.0
LOOK_EVERY_S = 0.5
_decode = msgspec.msgpack.Decoder(News).decode


class _Waiting:
    """Somebody waits for this picture."""

    __slots__ = ("on_progress", "picture")

    def __init__(self, on_progress: OnProgress) -> None:
        self.picture: asyncio.Future[DrawnImage] = asyncio.get_running_loop().create_future()
        self.on_progress = on_progress


class CanvasProcess:
    """Hosts one canvas engine. Pictures with the same batch key share model calls, joining and leaving between them.

    `module` has a function `make_canvas_engine(config) -> CanvasEngine`; `config` is plain data, for it travels.
    """

    def __init__(
        self,
        name: str,
        module: str,
        config: dict[str, Any],
        *,
        rows: int,
        silence_s: float = SILENCE_S,
        call_timeout_s: float = CALL_TIMEOUT_S,
    ) -> None:
        self.name = name
        self.rows = rows
        self._load = Load(module, config)
        self._silence_s, self._call_timeout_s = silence_s, call_timeout_s
        self._facts: CanvasEngine = import_module(module).make_canvas_engine(config)
        self._process: asyncio.subprocess.Process | None = None
        self._birth: asyncio.Task[None] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._reader: asyncio.Task[None] | None = None
        self._loaded: asyncio.Future[Loaded] | None = None
        self._waiting: dict[int, _Waiting] = {}
        self._ids = count(1)
        self._heard_s = self._moved_s = 0.0
        self._calls = 0
        self.is_up = False
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        """For tests that kill it."""
        return self._process.pid if self._process else None

    # ── what a worker asks for ────────────────────────────────────────────────────────────────────────────

    def why_not_ready(self, model: str) -> str | None:
        return self._facts.why_not_ready(model)

    def batch_key(self, model: str, width: int, height: int) -> str:
        return self._facts.batch_key(model, width, height)

    async def draw(self, model: str, request: ImageRequest, on_progress: OnProgress) -> DrawnImage:
        if not self.is_up:
            raise EngineError(f"{self.name} is starting; try in a moment", retry_after_s=2)
        number, waiting = next(self._ids), _Waiting(on_progress)
        if not self._waiting:
            self._moved_s = asyncio.get_running_loop().time()
        self._waiting[number] = waiting
        try:
            self._tell(Add(number, model, self.batch_key(model, request.width, request.height), request))
            return await waiting.picture
        except asyncio.CancelledError:
            self._tell(Remove(number))
            raise
        finally:
            self._waiting.pop(number, None)

    # ── the child's life ──────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Spawn, and wait until it is loaded; if it cannot be, that is tried again and again. EngineError.

        Whoever asks a second time waits for the first.
        """
        if self._birth is None:
            self._birth = asyncio.create_task(self._be_born())
        await asyncio.shield(self._birth)

    async def _be_born(self) -> None:
        try:
            await self._spawn()
        finally:
            self._keeper = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Kill it; nothing is lost that matters."""
        self.is_up = False
        for task in (self._birth, self._keeper, self._reader):
            if task is not None:
                task.cancel()
        # A birth that was cancelled leaves a keeper behind.
        await asyncio.sleep(0)
        if self._keeper is not None:
            self._keeper.cancel()
        process, self._process, self._birth, self._keeper = self._process, None, None, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()
        self._fail_all(f"{self.name} has stopped")

    def _tell(self, order: Order) -> None:
        # A write never waits: what a frozen child does not read stays in memory until it is killed.
        if self._process is not None and self._process.stdin is not None and not self._process.stdin.is_closing():
            self._process.stdin.write(to_frame(order))

    async def _spawn(self) -> None:
        command = [sys.executable, "-m", "minitoolai.engines.canvas_desk"]
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=child_environment(),
        )
        loop = asyncio.get_running_loop()
        self._process, self._loaded, self._calls = process, loop.create_future(), 0
        self._reader = asyncio.create_task(self._listen(process))
        self._tell(self._load)
        born_s = self._heard_s = loop.time()
        while not self._loaded.done():
            await asyncio.wait([self._loaded], timeout=LOOK_EVERY_S)
            silent_s, so_far_s = loop.time() - self._heard_s, loop.time() - born_s
            if not self._loaded.done() and (silent_s > START_SILENCE_S or so_far_s > START_TIMEOUT_S):
                process.kill()
                self._loaded.set_result(Loaded(f"it is silent for {silent_s:.0f} s, {so_far_s:.0f} s after its start"))
        if error := self._loaded.result().error:
            raise EngineError(f"{self.name} could not be loaded: {error}")
        self._heard_s = self._moved_s = loop.time()
        self.is_up = True

    async def _keep(self) -> None:
        """Kill the child when it hangs; bring it back whenever it dies, ever slower if it keeps dying."""
        delay_s, loop = 0.0, asyncio.get_running_loop()
        while True:
            born_s = loop.time()
            assert self._reader is not None
            assert self._process is not None
            while not self._reader.done():
                await self._look(self._reader, self._process)
            log.error("%s died with status %s; starting it again", self.name, await self._process.wait())
            delay_s = 0.0 if loop.time() - born_s > 60 else min(LONGEST_RESTART_S, delay_s * 2 + 0.1)
            await asyncio.sleep(delay_s)
            self.restarts += 1
            try:
                await self._spawn()
            except (EngineError, OSError) as error:
                log.error("%s did not start again: %s", self.name, error)

    async def _look(self, reader: asyncio.Task[None], process: asyncio.subprocess.Process) -> None:
        loop = asyncio.get_running_loop()
        before_s = loop.time()
        await asyncio.wait([reader], timeout=LOOK_EVERY_S)
        now_s = loop.time()
        if now_s - before_s > LOOK_EVERY_S + self._silence_s / 2:
            # It was we who slept: what the child said meanwhile is still to be read.
            self._heard_s = self._moved_s = now_s
        if not self.is_up:
            return
        silent_s, stuck_s = now_s - self._heard_s, now_s - self._moved_s if self._waiting else 0.0
        if silent_s > self._silence_s or stuck_s > self._call_timeout_s:
            log.error("%s is silent for %.0f s, stuck for %.0f s: killing it", self.name, silent_s, stuck_s)
            process.kill()

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        """Hand out news as it comes, until the child dies."""
        assert process.stdout is not None
        loop = asyncio.get_running_loop()
        try:
            while True:
                head = await process.stdout.readexactly(HEAD.size)
                news = _decode(await process.stdout.readexactly(HEAD.unpack(head)[0]))
                self._heard_s = loop.time()
                self._hand_out(news)
        except (asyncio.IncompleteReadError, OSError):
            self.is_up = False
            if self._loaded is not None and not self._loaded.done():
                self._loaded.set_result(Loaded("it died"))
            self._fail_all(f"{self.name} died while it drew")

    def _hand_out(self, news: News) -> None:
        if isinstance(news, Heartbeat):
            if news.calls != self._calls:
                self._calls, self._moved_s = news.calls, self._heard_s
            return
        self._moved_s = self._heard_s
        if isinstance(news, Loaded):
            if self._loaded is not None and not self._loaded.done():
                self._loaded.set_result(news)
            return
        waiting = self._waiting.get(news.id)
        if waiting is None or waiting.picture.done():
            return
        if isinstance(news, Progress):
            waiting.on_progress(news.step, news.steps)
        elif isinstance(news, Drawn):
            waiting.picture.set_result(DrawnImage(png=news.png, model=news.model))
        elif news.refused:
            waiting.picture.set_exception(EngineRefused(news.error))
        else:
            waiting.picture.set_exception(EngineError(f"{self.name}: {news.error}"))

    def _fail_all(self, message: str) -> None:
        for waiting in self._waiting.values():
            if not waiting.picture.done():
                waiting.picture.set_exception(EngineError(message, retry_after_s=2))
