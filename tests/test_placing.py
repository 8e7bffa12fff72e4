"""The worker publishes its placed servers, and a server follows them."""

from __future__ import annotations

import asyncio
from pathlib import Path

from minitoolai.core.catalog.catalog import EngineEntry
from minitoolai.core.clock import SystemClock
from minitoolai.engines.servers import PlacedServer
from minitoolai.engines.speech.voices import FakeSpeechEngine
from minitoolai.placing import ServerFollower, ServerPublisher
from minitoolai.storage.tables import jobs
from tests.engines.test_servers import VOICE, speak, until, voices
from tests.support.books import TemporaryBooks


def test_a_server_speaks_with_the_voices_of_a_worker_until_that_stops(books: TemporaryBooks) -> None:
    clock = SystemClock()

    async def test() -> None:
        engine = voices()
        beside = FakeSpeechEngine(
            "beside", EngineEntry("fake", model="m"), [VOICE], folder=Path(), processes=1, max_running=1, max_queued=1
        )
        with books.writer() as writer:
            await writer.run(lambda c: jobs.register_worker(c, "w", {}, clock.lease_ms()))
            publisher = ServerPublisher([PlacedServer("tone", "minitoolai.engines.speech.outlet")], writer, "w")
            follower = ServerFollower(books.database, clock, {}, {"tone": engine, "beside": beside})
            publishing, following = asyncio.create_task(publisher.run()), asyncio.create_task(follower.run())
            await until(lambda: engine.why_not_ready() is None)
            assert (await speak(engine)).samples > 0
            assert beside.children == []
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)
            assert [server.is_up for server in publisher.servers] == [False]
            await until(lambda: engine.why_not_ready() is not None)
            await writer.run(lambda c: jobs.unregister_worker(c, "w"))
            await until(lambda: engine.children == [])
            following.cancel()
            await engine.stop()

    asyncio.run(test())


def test_a_worker_without_servers_publishes_nothing(books: TemporaryBooks) -> None:
    async def test() -> None:
        with books.writer() as writer:
            await ServerPublisher([], writer, "w").run()

    asyncio.run(test())
    assert books.rows("SELECT count(*) FROM placed_servers") == [(0,)]
