"""Placed servers: voices and language models in a child that listens, and engines that follow where it is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from minitoolai.core.catalog.catalog import EngineEntry, VoiceEntry
from minitoolai.core.errors import EngineError, EngineUnavailable, Overloaded
from minitoolai.core.inference import ChatRequest
from minitoolai.engines.chat.llama.placed import PlacedLlama
from minitoolai.engines.host import ChildHost, MakeHost
from minitoolai.engines.servers import PlacedServer, ServerOffer
from minitoolai.engines.speech.messages import Begin, Reply, Speak
from minitoolai.engines.speech.voices import FakeSpeechEngine
from minitoolai.httpclient.client import HttpClient
from tests.support.small_model import small_model_file
from tests.support.waiting import children_of

VOICE = VoiceEntry("any", "tone", "en", "none")
LLAMA = "minitoolai.engines.chat.llama.placed_child"
REQUEST = ChatRequest("m", [{"role": "user", "content": "Say a word."}], {}, stream=False, include_usage=True, limit=8)


class Place:
    """Where the servers of these tests run: the tests of a cluster set another one."""

    make_host: MakeHost = ChildHost


@contextlib.asynccontextmanager
async def voice_server() -> AsyncIterator[PlacedServer]:
    server = PlacedServer("tone", "minitoolai.engines.speech.outlet", make_host=Place.make_host)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def voices() -> FakeSpeechEngine:
    entry = EngineEntry("fake", model="tone", placement="ray")
    return FakeSpeechEngine("tone", entry, [VOICE], folder=Path(), processes=1, max_running=4, max_queued=4)


async def until(condition: Callable[[], bool], within_s: float = 20.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.02)


async def speak(engine: FakeSpeechEngine, text: str = "hello") -> Reply:
    child = engine._least_busy()
    child.send(Begin(1, "any", "pcm", 1.0))
    return await child.request(Speak(1, text))


def test_voices_speak_behind_a_server_as_beside_this_process() -> None:
    async def test() -> None:
        async with voice_server() as server:
            engine, other = voices(), voices()
            assert engine.why_not_ready() == "no server of it is up: run minitoolai worker --ray"
            assert server.offer is not None
            for each in (engine, other):
                each.set_servers([server.offer])
                await until(lambda each=each: each.why_not_ready() is None)
            # Each process that serves has a child of its own, so that texts with one number do not meet.
            first, second = await asyncio.gather(speak(engine), speak(other, "hello world"))
            assert 0 < first.samples_left < second.samples_left
            # A child that ends is started again: its connection is new.
            with pytest.raises(EngineError):
                await speak(engine, "deadly")
            await until(lambda: engine.children[0].restarts == 1 and engine.children[0].is_up)
            assert await speak(engine) == first
            engine.set_servers([])
            assert engine.why_not_ready() is not None
            with pytest.raises(Overloaded):
                engine._least_busy()
            await engine.stop()
            await other.stop()

    asyncio.run(test())


def test_a_child_ends_with_its_connection_and_nobody_is_heard_without_the_secret() -> None:
    async def test() -> None:
        async with voice_server() as server:
            engine, stranger = voices(), voices()
            assert server.offer is not None
            engine.set_servers([server.offer])
            stranger.set_servers([server.offer._replace(secret="x" * len(server.offer.secret))])
            await until(lambda: engine.children[0].is_up)
            assert server.pid is not None
            (child,) = children_of(server.pid)
            # Even one that is frozen.
            os.kill(child, signal.SIGSTOP)
            assert not stranger.children[0].is_up
            await engine.stop()
            await until(lambda: not children_of(server.pid or 0))
            await stranger.stop()

    asyncio.run(test())


def test_a_server_that_cannot_load_says_why() -> None:
    async def test() -> None:
        server = PlacedServer("talk", LLAMA, {"path": "/nowhere/model.gguf"}, Place.make_host)
        with pytest.raises(EngineError, match=r"talk: its server did not start: no file /nowhere/model\.gguf"):
            await server.start()
        assert server.offer is None
        await server.stop()

    asyncio.run(test())


def test_a_language_model_answers_from_a_placed_server() -> None:
    settings = {
        "path": str(small_model_file()), "model": "small", "slots": 1, "queue": 2, "context": 512, "threads": 1,
        "embeds": False, "pooling": "",
    }  # fmt: skip

    async def test() -> None:
        client = HttpClient()
        entry = EngineEntry("llama", model="small", context=512, file=settings["path"], placement="ray")
        engine = PlacedLlama("talk", entry, client, slots=1, queue=2, total_timeout_s=60)
        assert engine.why_not_ready() == "no server of it is up: run minitoolai worker --ray"
        with pytest.raises(EngineUnavailable):
            await engine.open(REQUEST, 8)
        server = PlacedServer("talk", LLAMA, settings, Place.make_host)
        await server.start()
        try:
            assert server.offer is not None
            engine.set_servers([server.offer])
            assert engine.why_not_ready() is None
            response = await engine.open(REQUEST, 8)
            assert b'"completion_tokens"' in await response.read()
            await response.close()
            # It asks for its key.
            engine.set_servers([ServerOffer("talk", server.offer.address, "wrong")])
            with pytest.raises(EngineError):
                await engine.open(REQUEST, 8)
        finally:
            await server.stop()
            await client.close()

    asyncio.run(test())
