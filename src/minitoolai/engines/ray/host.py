"""A host on Ray: the child runs beside an actor, on whichever machine of the cluster has room.

Ray starts the actor, tells when its machine is lost, and ends it. Messages go directly between host and child.
"""

from __future__ import annotations

import asyncio
import logging
from asyncio import StreamReader
from functools import partial
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayError

from minitoolai import __version__
from minitoolai.core.errors import EngineError
from minitoolai.core.threads import PLACEMENT
from minitoolai.engines.connected_host import ConnectedHost, connect
from minitoolai.engines.host import HostClient
from minitoolai.engines.ray.cluster import is_alive
from minitoolai.engines.ray.relay import Health, Relay, RelayOffer

log = logging.getLogger(__name__)

#: Ask the actor how its child is this often. Without an answer for SILENCE_S, its machine counts as lost.
LOOK_EVERY_S, SILENCE_S = 1.0, 8.0
#: Say in the log that no machine has room after this long, and ask again; the next times each after twice as long. The
#: cluster's autoscaler sees it immediately.
ASK_AGAIN_S, LONGEST_ASK_S = 30.0, 300.0
#: Calls that one relay serves at the same time: a look must not wait for another call.
CALLS = 8


class RayHost(ConnectedHost):
    """One child on a machine of the cluster that `connect` has connected to. A lost machine is replaced by another."""

    ask_again_s = ASK_AGAIN_S

    def __init__(self, name: str, module: str, client: HostClient, rows: int = 1, *, gpus: float = 0.0) -> None:
        super().__init__(name, client, rows)
        self._module, self._gpus = module, gpus
        self._actor: Any = None
        self._memory = 0
        self._cpu_s = 0.0
        #: The machine in the cluster.
        self._node_id = ""

    def cpu_s(self) -> float:
        return self._cpu_s

    def resident_bytes(self) -> int:
        return self._memory if self.is_up else 0

    @property
    def _target(self) -> str:
        return f"process {self.pid} on its machine"

    def kill(self) -> None:
        if self._actor is not None:
            self._actor.kill.remote()

    # ── one life of the child ─────────────────────────────────────────────────────────────────────────────

    async def _start_once(self) -> None:
        await self._release()
        where = "the cluster"
        try:
            actor, offer = await self._placed()
            if offer.version != __version__:
                raise EngineError(f"{self.name}: a machine has minitoolai {offer.version}, this one {__version__}")
            where = f"{offer.host}:{offer.port}"
            stream, self._writer = await connect(offer.host, offer.port)
            self._writer.write(offer.secret)
            self.pid = await _answer(actor.start.remote())
        except RayError as error:
            reason = str(error).strip().rpartition("\n")[2].strip()[:300]
            raise EngineError(f"{self.name} could not be placed: {type(error).__name__}: {reason}") from error
        except (OSError, TimeoutError) as error:
            raise EngineError(f"{self.name}: no connection to its machine at {where}: {error}") from error
        self._node_id, self._cpu_s = offer.node_id, 0.0
        self._reader = asyncio.create_task(self._read_events(actor, stream))
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

    async def _placed(self) -> tuple[Any, RelayOffer]:
        """Return an actor that a machine has room for, and where it listens.

        Ask for another one from time to time: an actor that waits while the head is lost may wait for ever.
        """
        wait_s = self.ask_again_s
        while True:
            self._actor = actor = await PLACEMENT.run(self._create)
            starting = asyncio.ensure_future(_answer(actor.offer.remote()))
            try:
                done, _ = await asyncio.wait([starting], timeout=wait_s)
            finally:
                if not starting.done():
                    starting.cancel()
            if done:
                offer: RelayOffer = starting.result()
                return actor, offer
            needs = f"{self._gpus:g} GPU" if self._gpus else "a CPU"
            log.warning("%s waits for a machine of the Ray cluster with %s", self.name, needs)
            await PLACEMENT.run(partial(_kill, actor))
            wait_s = min(2 * wait_s, LONGEST_ASK_S)

    async def _release(self) -> None:
        # The child ends when its connection is closed, even if its actor lives on.
        await super()._release()
        actor, self._actor = self._actor, None
        if actor is not None:
            await PLACEMENT.run(partial(_kill, actor))

    # ── messages ──────────────────────────────────────────────────────────────────────────────────────────

    async def _read_events(self, actor: Any, stream: StreamReader) -> str:
        """Pass messages on until the child ends. Return how it ended, for the log."""
        how, is_lost = "was not read", True
        reading, watching = asyncio.create_task(self._read(stream)), asyncio.create_task(self._watch(actor))
        try:
            await asyncio.wait({reading, watching}, return_when=asyncio.FIRST_COMPLETED)
            for task in (reading, watching):
                if task.done():
                    await task
            async with asyncio.timeout(SILENCE_S):
                health: Health = await _answer(actor.ended.remote())
            how, is_lost = f"exited with status {health.status}", False
        except TimeoutError:
            how = f"was lost: its machine sent nothing for {SILENCE_S:g} s"
        except ActorUnavailableError:
            how = "was lost: its machine cannot be reached"
        except RayError as error:
            is_lost = await PLACEMENT.run(partial(_is_lost, self._node_id))
            how = f"{'was lost with its machine' if is_lost else 'ended with its actor'} ({type(error).__name__})"
        finally:
            reading.cancel()
            watching.cancel()
            self.is_up = False
            self._client.on_end(is_lost=is_lost)
        return how

    async def _watch(self, actor: Any) -> None:
        """Look after the child until the machine does not answer. Raises TimeoutError, RayError."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            async with asyncio.timeout(SILENCE_S):
                health: Health = await _answer(actor.look.remote())
            self._cpu_s, self._memory = health.cpu_s, health.memory


def _is_lost(node: str) -> bool:
    try:
        return not is_alive(node)
    except RayError as error:
        # The head is away as well, so it is not known, and no image is at fault.
        log.info("the nodes of the cluster are unknown: %s", type(error).__name__)
        return True


def _kill(actor: Any) -> None:
    try:
        ray.kill(actor, no_restart=True)
    except RayError as error:
        # Its machine is gone, or the head is away: then Ray ends it with this process, or when the machine is back.
        log.info("an actor could not be killed: %s", type(error).__name__)


async def _answer(reference: Any) -> Any:
    return await reference
