"""One child process that speaks, as its parent sees it: orders out, answers in, and back to life if it dies."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import deque
from typing import Any

import msgspec

from minitoolai.core.errors import EngineError, EngineTimeout
from minitoolai.engines.child_process import child_environment
from minitoolai.engines.hang_detector import HangDetector
from minitoolai.engines.voice_process import HEAD, Load, Order, Said, to_frame

log = logging.getLogger(__name__)

#: Processor time for one order, or seconds without any; loading the voices takes about three, a sentence less than one.
HANG_AFTER_S = 30.0
LOOK_EVERY_S = 1.0
LONGEST_RESTART_S = 10.0
_decode = msgspec.msgpack.Decoder(Said).decode


class VoiceChild:
    """One child. Orders are carried out one after the other, so answers come in the order of their questions."""

    def __init__(
        self, name: str, load: Load, *, hang_after_s: float = HANG_AFTER_S, look_every_s: float = LOOK_EVERY_S
    ) -> None:
        self._name = name
        self._load = load
        self._hang_after_s, self._look_every_s = hang_after_s, look_every_s
        #: Judges the order at the head of `_waiting`.
        self._detector: HangDetector
        self._is_hung = False
        self._process: asyncio.subprocess.Process | None = None
        self._waiting: deque[asyncio.Future[Said]] = deque()
        self._keeper: asyncio.Task[None] | None = None
        self._reader: asyncio.Task[None] | None = None
        self.is_up = False
        self.restarts = 0
        #: Texts it has under way.
        self.texts = 0

    @property
    def pid(self) -> int | None:
        """For tests that kill it."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Spawn, and wait until the voices are loaded; if they are not, it is tried again. EngineError."""
        try:
            await self._spawn()
        finally:
            self._keeper = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Kill it; nothing is lost that matters."""
        self.is_up = False
        for task in (self._keeper, self._reader):
            if task is not None:
                task.cancel()
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()

    def tell(self, order: Order) -> None:
        """Send an order that is not answered."""
        if self._process is not None and self._process.stdin is not None and not self._process.stdin.is_closing():
            self._process.stdin.write(to_frame(order))

    def ask(self, order: Order) -> asyncio.Future[Said]:
        """Send an order and await its answer. A caller who leaves meanwhile only loses the answer."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        if not self._waiting:
            self._detector.begin(loop.time())
        self._waiting.append(future)
        self.tell(order)
        return future

    async def _spawn(self) -> None:
        command = [sys.executable, "-m", "minitoolai.engines.voice_process"]
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=child_environment(),
        )
        self._process, self._is_hung = process, False
        self._detector = HangDetector(process.pid, self._hang_after_s)
        self._reader = asyncio.create_task(self._hand_out(process))
        loaded = self.ask(self._load)
        while not loaded.done():
            await self._look(loaded, process)
        if error := loaded.result().error:
            raise EngineError(f"{self._name}: the voices could not be loaded: {error}")
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
            log.error("%s died with status %s; starting it again", self._name, await self._process.wait())
            delay_s = 0.0 if loop.time() - born_s > 60 else min(LONGEST_RESTART_S, delay_s * 2 + 0.1)
            await asyncio.sleep(delay_s)
            self.restarts += 1
            try:
                await self._spawn()
            except (EngineError, OSError) as error:
                log.error("%s did not start again: %s", self._name, error)

    async def _look(self, awaited: asyncio.Future[Any], process: asyncio.subprocess.Process) -> None:
        """Wait for this, but not for long; then kill the child if it hangs."""
        await asyncio.wait([awaited], timeout=self._look_every_s)
        now_s = asyncio.get_running_loop().time()
        if self._waiting and process.returncode is None and self._detector.is_hung(now_s):
            log.error("%s hangs: one order has taken too long; killing process %d", self._name, process.pid)
            self._is_hung = True
            process.kill()

    async def _hand_out(self, process: asyncio.subprocess.Process) -> None:
        """Hand out answers as they come, until the child dies."""
        assert process.stdout is not None
        try:
            while True:
                head = await process.stdout.readexactly(HEAD.size)
                said = _decode(await process.stdout.readexactly(HEAD.unpack(head)[0]))
                future = self._waiting.popleft()
                # What waited behind it begins.
                self._detector.begin(asyncio.get_running_loop().time())
                if not future.done():
                    future.set_result(said)
        except (asyncio.IncompleteReadError, OSError):
            self.is_up = False
            if self._is_hung and self._waiting:
                _fail(self._waiting.popleft(), EngineTimeout(f"{self._name} hung; what was spoken is charged"))
            self._fail_all(f"{self._name} died and is starting again; try in a moment")

    def _fail_all(self, message: str) -> None:
        while self._waiting:
            _fail(self._waiting.popleft(), EngineError(message, retry_after_s=2))


def _fail(future: asyncio.Future[Said], error: EngineError) -> None:
    if not future.done():
        future.set_exception(error)
