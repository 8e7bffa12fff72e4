"""The contract of engines on a Ray cluster: the tests of child processes again, and the loss of a machine."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from minitoolai.core.errors import EngineError, EngineLost, SettingsError
from minitoolai.engines.speech.messages import Begin, LoadVoices, Reply, Speak
from minitoolai.engines.speech.pool import VoiceChild
from tests.engines import test_servers as servers
from tests.engines.images import test_process as contract
from tests.engines.images.test_process import EngineProcess, colour, ignore, request, until_up, with_engine
from tests.support.ray_cluster import RayCluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    """A cluster of one head and one machine, which this process has joined."""
    started = RayCluster()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in started.env.items():
            patch.setenv(name, value)
        try:
            started.add_node(cpus=2)
            # Not before, because Ray reads these variables when it is imported.
            from minitoolai.engines.ray import cluster as joined
            from minitoolai.engines.ray.host import RayHost

            joined.connect(started.address)
            patch.setattr(contract.Place, "make_host", RayHost)
            patch.setattr(servers.Place, "make_host", RayHost)
            yield started
            joined.disconnect()
        finally:
            started.stop()


@pytest.mark.parametrize(
    "test",
    [
        contract.test_an_image_arrives_with_its_progress,
        contract.test_images_of_one_size_share_calls_and_join_a_running_batch,
        contract.test_a_cancelled_image_leaves_the_batch_and_the_others_continue,
        contract.test_a_bad_request_is_refused_for_good,
        partial(contract.test_only_the_image_at_fault_fails, "unruly"),
        partial(contract.test_a_child_that_dies_or_freezes_fails_its_images_and_is_restarted, signal.SIGKILL),
        partial(contract.test_a_child_that_dies_or_freezes_fails_its_images_and_is_restarted, signal.SIGSTOP),
        partial(contract.test_the_engine_recovers_from_an_image_that_kills_or_hangs_the_child, "deadly"),
        contract.test_a_child_that_cannot_load_reports_why,
    ],
)
def test_the_contract_of_image_engines(cluster: RayCluster, test: Callable[[], None]) -> None:
    test()


def test_a_lost_actor_is_a_failure_and_a_lost_machine_is_none(cluster: RayCluster) -> None:
    async def test(engine: EngineProcess) -> None:
        async def lose(kill: Callable[[], None]) -> EngineError:
            begun = asyncio.Event()
            task = asyncio.create_task(engine.generate("any", request(steps=200), lambda *_: begun.set()))
            await begun.wait()
            await asyncio.to_thread(kill)
            with pytest.raises(EngineError) as raised:
                await asyncio.wait_for(task, 30)
            return raised.value

        assert engine.pid is not None
        relay = int(Path(f"/proc/{engine.pid}/stat").read_text().rpartition(")")[2].split()[1])
        # Its machine lives: perhaps the image took all memory.
        assert not isinstance(await lose(lambda: os.kill(relay, signal.SIGKILL)), EngineLost)
        await until_up(engine, restarts=1)
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        assert isinstance(await lose(cluster.nodes[0].kill), EngineLost)
        print(f"a killed machine was noticed after {loop.time() - began_s:.1f} s")
        # It waits in the cluster until there is another machine.
        await asyncio.to_thread(cluster.add_node, 2)
        await until_up(engine, restarts=2)
        assert colour(await engine.generate("any", request(seed=9), ignore)) == (0, 0, 9)

    with_engine(test, delay_ms=50)


def test_a_voice_speaks_from_another_machine(cluster: RayCluster) -> None:
    async def speak(voice: VoiceChild) -> Reply:
        await voice.start()
        try:
            voice.send(Begin(1, "any", "pcm", 1.0))
            return await voice.request(Speak(1, "hello"))
        finally:
            await voice.stop()

    load = LoadVoices("fake", [], 0)
    there = asyncio.run(speak(VoiceChild("tone", load, make_host=contract.Place.make_host)))
    here = asyncio.run(speak(VoiceChild("tone", load)))
    assert there == here
    assert here.samples > 0


@pytest.mark.parametrize(
    "test",
    [
        servers.test_voices_speak_behind_a_server_as_beside_this_process,
        servers.test_a_server_that_cannot_load_says_why,
        servers.test_a_language_model_answers_from_a_placed_server,
    ],
)
def test_the_contract_of_servers(cluster: RayCluster, test: Callable[[], None]) -> None:
    test()


def test_an_actor_that_does_not_begin_is_asked_for_again(cluster: RayCluster) -> None:
    from minitoolai.engines.ray.host import RayHost

    class HastyHost(RayHost):
        ask_again_s = 0.02

    async def test() -> None:
        server = servers.PlacedServer("tone", "minitoolai.engines.speech.outlet", make_host=HastyHost)
        await asyncio.wait_for(server.start(), 30)
        assert server.offer is not None
        await server.stop()

    asyncio.run(test())


def test_nobody_joins_without_the_token(cluster: RayCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    from minitoolai.engines.ray import cluster as joined

    monkeypatch.delenv("RAY_AUTH_MODE")
    with pytest.raises(SettingsError, match="RAY_AUTH_MODE=token"):
        joined.connect(cluster.address)
