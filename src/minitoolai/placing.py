"""Servers on a cluster: the worker that placed them publishes their addresses, and every `serve` follows them.

The database is between the two, so that `serve` needs no connection to the cluster. An entry lasts as long as
its worker reports.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from minitoolai.core.clock import Clock
from minitoolai.core.errors import EngineError, Overloaded, StoreError
from minitoolai.engines.chat.llama.placed import PlacedLlama
from minitoolai.engines.protocols import ChatEngine, SpeechEngine
from minitoolai.engines.servers import PlacedServer, ServerOffer, UsesServers
from minitoolai.engines.speech.pool import VoicePool
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.tables import placed_servers
from minitoolai.storage.tables.placed_servers import PlacedServerRow
from minitoolai.storage.writer import Writer

log = logging.getLogger(__name__)

#: Look this often for what has changed, and publish it anew this often in any case: the worker may have been counted as
#: vanished meanwhile.
LOOK_EVERY_S, PUBLISH_EVERY_S = 1.0, 30.0


class ServerPublisher:
    """Runs the placed servers of a worker, and publishes where they are."""

    def __init__(self, servers: Sequence[PlacedServer], writer: Writer, worker: str) -> None:
        self.servers = servers
        self._writer, self._worker = writer, worker

    async def run(self) -> None:
        """Start the servers, and publish each change until cancelled. Then stop them."""
        if not self.servers:
            return
        starting = [asyncio.create_task(self._start(server)) for server in self.servers]
        try:
            await self._publish_forever()
        finally:
            for task in starting:
                task.cancel()
            await asyncio.gather(*starting, *(server.stop() for server in self.servers), return_exceptions=True)

    async def _start(self, server: PlacedServer) -> None:
        try:
            await server.start()
        except (EngineError, OSError) as error:
            log.error("a server of %s did not start, will retry: %s", server.name, error)

    async def _publish_forever(self) -> None:
        loop = asyncio.get_running_loop()
        published: list[ServerOffer] = []
        published_s = -PUBLISH_EVERY_S
        while True:
            offers = [offer for server in self.servers if (offer := server.offer) is not None]
            if offers != published or loop.time() - published_s >= PUBLISH_EVERY_S:
                rows = [PlacedServerRow(*offer) for offer in offers]

                def change(connection: Connection, rows: list[PlacedServerRow] = rows) -> None:
                    placed_servers.publish(connection, self._worker, rows)

                try:
                    await self._writer.run(change)
                    published, published_s = offers, loop.time()
                except (StoreError, Overloaded) as error:
                    log.warning("publishing %d placed servers failed, will retry: %s", len(rows), error)
            await asyncio.sleep(LOOK_EVERY_S)


@dataclass(frozen=True)
class ServerFollower:
    """Tells the engines of `serve` which of their servers are up."""

    database: Database
    clock: Clock
    #: The chat engines, which a reload of the catalog may change, and the speech engines.
    chats: Mapping[str, ChatEngine]
    voices: Mapping[str, SpeechEngine]

    async def run(self) -> None:
        """Follow the published servers until cancelled. While the database is away, the last ones are used."""
        while True:
            if engines := self._engines():
                try:
                    found = await self.database.read_async(placed_servers.available, self.clock.lease_ms())
                except (StoreError, Overloaded) as error:
                    log.warning("reading the placed servers failed, will retry: %s", error)
                else:
                    for name, engine in engines.items():
                        engine.set_servers([ServerOffer(*row) for row in found if row.engine == name])
            await asyncio.sleep(LOOK_EVERY_S)

    def _engines(self) -> dict[str, UsesServers]:
        found: dict[str, UsesServers] = {}
        for name, engine in [*self.chats.items(), *self.voices.items()]:
            if isinstance(engine, PlacedLlama) or (isinstance(engine, VoicePool) and engine.is_placed):
                found[name] = engine
        return found
