"""A host on Ray: the child runs beside an actor, on whichever machine of the cluster has room."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayError

from minitoolai import __version__
from minitoolai.core.errors import EngineError
from minitoolai.core.threads import PLACEMENT
from minitoolai.engines.child_process import to_frame
from minitoolai.engines.host import HostClient
from minitoolai.engines.ray.cluster import is_alive
from minitoolai.engines.ray.relay import News, Relay, Started
from minitoolai.engines.supervision import Supervised

log = logging.getLogger(__name__)

#: A relay answers every second. Without an answer for this long, its machine counts as lost.
SILENCE_S = 8.0
#: Say in the log that no machine has room after this long. The cluster's autoscaler sees it immediately.
PENDING_AFTER_S = 15.0
#: Calls that one relay serves at the same time: one waits for news, others bring commands.
CALLS = 8


class RayHost(Supervised):
    """One child on a machine of the cluster that `connect` has connected to. A lost machine is replaced by another."""

    is_background = False
    is_remote = True

    def __init__(self, name: str, module: str, client: HostClient, rows: int = 1, *, gpus: float = 0.0) -> None:
        super().__init__(name)
        self._module, self._client, self._rows, self._gpus = module, client, rows, gpus
        self._actor: Any = None
        self._reader: asyncio.Task[str] | None = None
        self._sender: asyncio.Task[None] | None = None
        self._outgoing: list[bytes] = []
        self._memory = 0
        self._cpu_s = 0.0
        #: The process ID on that machine, and the machine in the cluster.
        self.pid: int | None = None
        self._node_id = ""

    @property
    def capacity(self) -> int:
        return self._rows if self.is_up else 0

    def cpu_s(self) -> float:
        return self._cpu_s

    def resident_bytes(self) -> int:
        return self._memory if self.is_up else 0

    def send(self, command: Any) -> None:
        if self._actor is None:
            return
        self._outgoing.append(to_frame(command))
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send_all(self._actor))

    def kill(self) -> None:
        if self._actor is not None:
            self._actor.kill.remote()

    # ── one life of the child ─────────────────────────────────────────────────────────────────────────────

    async def _start_once(self) -> None:
        await self._release()
        self._actor = actor = await PLACEMENT.run(self._create)
        try:
            started = await self._placed(actor)
        except RayError as error:
            reason = str(error).strip().rpartition("\n")[2].strip()[:300]
            raise EngineError(f"{self.name} could not be placed: {type(error).__name__}: {reason}") from error
        if started.version != __version__:
            raise EngineError(f"{self.name}: a machine has minitoolai {started.version}, this one {__version__}")
        self.pid, self._node_id, self._cpu_s = started.pid, started.node_id, 0.0
        self._reader = asyncio.create_task(self._read_events(actor))
        await self._client.load()
        self.is_up = True

    def _create(self) -> Any:
        """Ask for an actor. It waits in the cluster until a machine has room."""
        options = {
            "num_cpus": 1,
            "num_gpus": self._gpus,
            "max_concurrency": CALLS,
            "max_restarts": 0,
            "max_task_retries": 0,
            "scheduling_strategy": "SPREAD",
        }
        return ray.remote(Relay).options(**options).remote(self._module)

    async def _placed(self, actor: Any) -> Started:
        starting = asyncio.ensure_future(_answer(actor.start.remote()))
        done, _ = await asyncio.wait([starting], timeout=PENDING_AFTER_S)
        if not done:
            needs = f"{self._gpus:g} GPU" if self._gpus else "a CPU"
            log.warning("%s waits for a machine of the Ray cluster with %s", self.name, needs)
        started: Started = await starting
        return started

    async def _wait_for_end(self) -> str | None:
        reader = self._reader
        if reader is None:
            return None
        while not reader.done():
            await asyncio.wait([reader], timeout=self._client.check_every_s)
            if not reader.done() and (reason := self._client.why_hung()) is not None:
                log.error("%s hangs (%s): killing process %s on its machine", self.name, reason, self.pid)
                self.kill()
        return reader.result()

    async def _release(self) -> None:
        reader, self._reader = self._reader, None
        tasks = [task for task in (reader, self._sender) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        actor, self._actor, self._outgoing, self._sender = self._actor, None, [], None
        if actor is not None:
            await PLACEMENT.run(partial(_kill, actor))

    # ── messages ──────────────────────────────────────────────────────────────────────────────────────────

    async def _send_all(self, actor: Any) -> None:
        """Send the commands that wait, in order: one call at a time."""
        while self._outgoing:
            frames, self._outgoing = b"".join(self._outgoing), []
            try:
                await actor.send.remote(frames)
            except RayError as error:
                # The reader notices the same, and fails all that wait.
                log.info("%s: a command was not delivered: %s", self.name, type(error).__name__)
                return

    async def _read_events(self, actor: Any) -> str:
        """Pass messages on until the child ends. Return how it ended, for the log."""
        how, is_lost = "was not read", True
        try:
            while True:
                async with asyncio.timeout(SILENCE_S):
                    news: News = await actor.receive.remote()
                self._cpu_s, self._memory = news.cpu_s, news.memory
                for message in news.messages:
                    self._client.on_event(message)
                if news.status is not None:
                    how, is_lost = f"exited with status {news.status}", False
                    return how
        except TimeoutError:
            how = f"was lost: its machine sent nothing for {SILENCE_S:g} s"
        except ActorUnavailableError:
            how = "was lost: its machine cannot be reached"
        except RayError as error:
            is_lost = not await PLACEMENT.run(partial(is_alive, self._node_id))
            how = f"{'was lost with its machine' if is_lost else 'ended with its actor'} ({type(error).__name__})"
        finally:
            self.is_up = False
            self._client.on_end(is_lost=is_lost)
        return how


def _kill(actor: Any) -> None:
    try:
        ray.kill(actor, no_restart=True)
    except RayError as error:
        # Its machine is gone, or the head is away: then Ray ends it with this process, or when the machine is back.
        log.info("an actor could not be killed: %s", type(error).__name__)


async def _answer(reference: Any) -> Any:
    return await reference
