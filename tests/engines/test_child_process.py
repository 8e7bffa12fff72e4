"""What every child process is given: how its threads wait for each other."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from minitoolai.engines.canvas_process import CanvasProcess
from minitoolai.engines.child_process import child_environment
from minitoolai.engines.voice_child import VoiceChild
from minitoolai.engines.voice_process import Load

VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def environment_of(pid: int | None) -> dict[str, str]:
    """What a process was started with, as the kernel tells it."""
    entries = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_threads_sleep_while_they_wait_and_the_rest_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOMETHING_ELSE", "kept")
    given = child_environment()
    assert given["OMP_WAIT_POLICY"] == "passive"
    assert 0 < int(given["GOMP_SPINCOUNT"]) <= 5000
    assert given["SOMETHING_ELSE"] == "kept"


@pytest.mark.parametrize("name", VARIABLES)
def test_what_the_operator_has_set_stands_alone(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "of the operator")
    given = child_environment()
    assert {key: given[key] for key in VARIABLES if key in given} == {name: "of the operator"}


def test_children_that_speak_and_draw_are_started_with_it() -> None:
    async def run() -> None:
        voice = VoiceChild("tone", Load("minitoolai.engines.fake_speech", [], 0))
        canvas = CanvasProcess("fake", "minitoolai.engines.fake_images", {"model": "fake-1", "delay_ms": 1}, rows=1)
        try:
            await asyncio.gather(voice.start(), canvas.start())
            for pid in (voice.pid, canvas.pid):
                assert environment_of(pid).items() >= child_environment().items()
        finally:
            await asyncio.gather(voice.stop(), canvas.stop())

    asyncio.run(run())
