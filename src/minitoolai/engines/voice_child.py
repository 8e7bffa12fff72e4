"""One child process that speaks, as its parent sees it: orders out, answers in, and back to life if it dies."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import deque

import msgspec

from minitoolai.core.errors import EngineError
from minitoolai.engines.child_process import child_environment
from minitoolai.engines.voice_process import HEAD, Load, Order, Said, to_frame

log = logging.getLogger(__name__)

START_TIMEOUT_S = 60.0
LONGEST_RESTART_S = 10.0
_decode = msgspec.msgpack.Decoder(Said).decode


class VoiceChild:
    """One child. Orders are carried out one after the other, so answers come in the order of their questions."""

    def __init__(self, name: str, load: Load) -> None:
        self._name = name
        self._load = load
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

    def kill(self) -> None:
        """It hangs: a new one will come."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    def tell(self, order: Order) -> None:
        """Send an order that is not answered."""
        if self._process is not None and self._process.stdin is not None and not self._process.stdin.is_closing():
            self._process.stdin.write(to_frame(order))

    def ask(self, order: Order) -> asyncio.Future[Said]:
        """Send an order and await its answer. A caller who leaves meanwhile only loses the answer."""
        future = asyncio.get_running_loop().create_future()
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
        self._process = process
        self._reader = asyncio.create_task(self._hand_out(process))
        try:
            said = await asyncio.wait_for(self.ask(self._load), START_TIMEOUT_S)
        except TimeoutError:
            process.kill()
            said = Said(error=f"it took more than {START_TIMEOUT_S:g} s")
        if said.error:
            raise EngineError(f"{self._name}: the voices could not be loaded: {said.error}")
        self.is_up = True

    async def _keep(self) -> None:
        """Bring the child back whenever it dies, at once the first time, ever slower if it keeps dying."""
        delay_s, loop = 0.0, asyncio.get_running_loop()
        while True:
            born_s = loop.time()
            assert self._reader is not None
            assert self._process is not None
            await asyncio.wait([self._reader])
            log.error("%s died with status %s; starting it again", self._name, await self._process.wait())
            delay_s = 0.0 if loop.time() - born_s > 60 else min(LONGEST_RESTART_S, delay_s * 2 + 0.1)
            await asyncio.sleep(delay_s)
            self.restarts += 1
            try:
                await self._spawn()
            except (EngineError, OSError) as error:
                log.error("%s did not start again: %s", self._name, error)

    async def _hand_out(self, process: asyncio.subprocess.Process) -> None:
        """Hand out answers as they come, until the child dies."""
        assert process.stdout is not None
        try:
            while True:
                head = await process.stdout.readexactly(HEAD.size)
                said = _decode(await process.stdout.readexactly(HEAD.unpack(head)[0]))
                future = self._waiting.popleft()
                if not future.done():
                    future.set_result(said)
        except (asyncio.IncompleteReadError, OSError):
            self.is_up = False
            self._fail_all(f"{self._name} died and is starting again; try in a moment")

    def _fail_all(self, message: str) -> None:
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_exception(EngineError(message, retry_after_s=2))
