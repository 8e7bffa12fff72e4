"""Tests of the child process supervisor with small real children."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from minitoolai.core.errors import EngineError, EngineTimeout
from minitoolai.engines.child_process import (
    ChildProcess,
    HangDetector,
    HeartbeatMonitor,
    child_environment,
    cpu_clock,
    read_frame,
    to_frame,
)
from minitoolai.engines.host import ChildHost
from minitoolai.engines.images.process import EngineProcess
from minitoolai.engines.speech.messages import LoadVoices
from minitoolai.engines.speech.pool import VoiceChild
from tests.support.waiting import is_alive

SLEEPS = "import time; time.sleep(600)"
EXITS = "raise SystemExit(3)"


class Child(ChildProcess):
    """Runs each of these scripts in turn, and the last one again and again. A script of "" fails to start."""

    def __init__(self, *scripts: str) -> None:
        super().__init__("child")
        self.scripts = list(scripts)
        self.starts_s: list[float] = []

    async def _start_once(self) -> None:
        self.starts_s.append(asyncio.get_running_loop().time())
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        if not script:
            raise EngineError("no such model")
        self._process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdin=PIPE)
        self.is_up = True


async def until(condition: object, *, within_s: float = 20) -> None:
    assert callable(condition)
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)


def test_a_child_that_dies_is_restarted() -> None:
    async def test() -> None:
        child = Child(SLEEPS)
        await child.start()
        first = child.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: child.restarts == 1 and child.pid != first)
        await child.stop()
        assert child.pid is None

    asyncio.run(test())


def test_a_child_that_keeps_dying_is_restarted_with_exponential_backoff() -> None:
    async def test() -> None:
        child = Child(EXITS)
        await child.start()
        await until(lambda: child.restarts == 4)
        await child.stop()
        gaps = [after - before for before, after in zip(child.starts_s, child.starts_s[1:], strict=False)]
        for gap_s, least_s in zip(gaps, (0.1, 0.2, 0.4, 0.8), strict=False):
            assert gap_s >= least_s

    asyncio.run(test())


def test_a_failed_first_start_is_reported_and_retried() -> None:
    async def test() -> None:
        child = Child("", SLEEPS)
        with pytest.raises(EngineError, match="no such model"):
            await child.start()
        await until(lambda: child.is_up)
        pid = child.pid
        assert pid is not None
        await child.stop()
        assert not is_alive(pid)

    asyncio.run(test())


def test_a_failed_first_start_is_final_if_retries_are_off() -> None:
    class Once(Child):
        retries_first_start = False

    async def test() -> None:
        child = Once("", SLEEPS)
        with pytest.raises(EngineError):
            await child.start()
        await asyncio.sleep(0.3)
        assert len(child.starts_s) == 1
        # The caller may try again.
        await child.start()
        assert child.is_up
        await child.stop()

    asyncio.run(test())


def test_concurrent_starts_share_one_child() -> None:
    async def test() -> None:
        child = Child(SLEEPS)
        await asyncio.gather(child.start(), child.start(), child.start())
        assert len(child.starts_s) == 1
        await child.stop()

    asyncio.run(test())


def test_stopping_during_a_start_leaves_no_process() -> None:
    async def test() -> None:
        for delay_s in (0.0, 0.001, 0.01):
            child = Child(SLEEPS)
            started = asyncio.create_task(child.start())
            await asyncio.sleep(delay_s)
            process: Process | None = child._process
            await child.stop()
            await asyncio.gather(started, return_exceptions=True)
            assert child.pid is None
            assert process is None or process.returncode is not None

    asyncio.run(test())


class Echo:
    """A protocol side that collects events, and its host."""

    check_every_s = 0.5

    def __init__(self) -> None:
        self.host = ChildHost("echo", "minitoolai.engines.speech.child", self)
        self.events: list[list[int]] = []
        self.ends: list[bool] = []

    async def load(self) -> None:
        """Load nothing."""

    def why_hung(self) -> str | None:
        return None

    def on_event(self, message: bytes) -> None:
        self.events.append(msgspec.msgpack.decode(message))

    def on_end(self, *, is_lost: bool) -> None:
        self.ends.append(is_lost)


class Stream:
    """The output of a process, from memory."""

    def __init__(self, data: bytes) -> None:
        self.stdout = asyncio.StreamReader()
        self.stdout.feed_data(data)
        self.stdout.feed_eof()


@pytest.mark.parametrize("cut", [0, 1, 5])
def test_events_are_delivered_until_the_output_ends_even_in_the_middle_of_one(cut: int) -> None:
    async def test() -> None:
        echo = Echo()
        echo.host.is_up = True
        data = to_frame([1]) + to_frame([2, 3])
        await echo.host._read_events(Stream(data[: len(data) - cut]))  # type: ignore[arg-type]
        assert echo.events == ([[1], [2, 3]] if not cut else [[1]])
        assert (echo.host.is_up, echo.ends) == (False, [False])

    asyncio.run(test())


def test_sending_to_a_child_that_does_not_run_is_ignored() -> None:
    Echo().host.send([1])


def test_frames_are_read_one_by_one_until_the_end() -> None:
    stream = io.BytesIO(to_frame("a") + to_frame({"b": 1}) + b"\x01")
    assert [read_frame(stream), read_frame(stream), read_frame(stream)] == [b"\xa1a", b"\x81\xa1b\x01", None]


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop with a clock that the test advances."""

    now_s = 1000.0

    def time(self) -> float:
        return self.now_s


def test_a_hang_is_silence_or_work_without_progress_but_not_a_pause_of_this_process() -> None:
    loop = SimulatedLoop()

    async def test() -> None:
        hangs = HeartbeatMonitor(silence_s=10, stall_s=30)
        hangs.reset()

        def advance(by_s: float, *, heard: bool = True, progress: bool = False) -> None:
            for _ in range(int(by_s * 2)):
                loop.now_s += 0.5
                if heard:
                    hangs.record_message()
                if progress:
                    hangs.record_progress()
                last.append(hangs.describe_hang(has_work=has_work))

        last: list[str | None] = []
        has_work = False
        advance(100)
        assert last[-1] is None
        has_work = True
        hangs.record_progress()
        advance(30)
        assert last[-1] is None
        advance(1)
        assert last[-1] == "it made no progress for 31 s"
        advance(40, progress=True)
        assert last[-1] is None
        advance(11, heard=False, progress=True)
        assert last[-1] == "it sent nothing for 11 s"
        hangs.reset()
        # A jump of the clock between two checks means that this process was suspended.
        loop.now_s += 500
        assert hangs.describe_hang(has_work=True) is None

    try:
        loop.run_until_complete(test())
    finally:
        loop.close()


# ── hangs by CPU time ─────────────────────────────────────────────────────────────────────────────────────────

LIMIT_S = 1.0
CRAWL = "import time\nwhile True: time.sleep(0.02)"
LOOP = "while True: pass"
BLOCK = "import threading; threading.Event().wait()"


def hangs_within(
    program: str, seconds: float, *, disturb: Callable[[subprocess.Popen[bytes]], object] | None = None
) -> bool:
    """Return True if the process is found to hang, checking ten times per second."""
    with subprocess.Popen([sys.executable, "-c", f"print(flush=True)\n{program}"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        if disturb is not None:
            disturb(process)
        try:
            detector = HangDetector(cpu_clock(process.pid), LIMIT_S)
            detector.begin(began_s := time.monotonic())
            while time.monotonic() - began_s < seconds:
                time.sleep(0.1)
                if detector.is_hung(time.monotonic()):
                    assert time.monotonic() - began_s > LIMIT_S
                    return True
            return False
        finally:
            process.kill()


@pytest.mark.parametrize("program", [LOOP, BLOCK])
def test_an_endless_loop_and_a_blocked_process_hang(program: str) -> None:
    assert hangs_within(program, 60)


def test_a_stopped_process_hangs() -> None:
    assert hangs_within(LOOP, 60, disturb=lambda process: process.send_signal(signal.SIGSTOP))


def test_a_process_that_advances_a_little_does_not_hang() -> None:
    assert not hangs_within(CRAWL, 4 * LIMIT_S)


def test_each_task_has_its_own_time() -> None:
    with subprocess.Popen([sys.executable, "-c", f"print(flush=True)\n{LOOP}"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            detector = HangDetector(cpu_clock(process.pid), LIMIT_S)
            for _ in range(4):
                detector.begin(time.monotonic())
                time.sleep(LIMIT_S / 2)
                assert not detector.is_hung(time.monotonic())
        finally:
            process.kill()


def test_a_process_that_has_exited_does_not_hang() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    detector = HangDetector(cpu_clock(process.pid), LIMIT_S)
    detector.begin(5.0)
    assert not detector.is_hung(5.0 + LIMIT_S / 2)


def test_a_voice_child_that_stops_is_killed_and_restarted() -> None:
    async def test() -> None:
        child = VoiceChild("tone", LoadVoices("fake", [], 0), hang_after_s=0.5, check_every_s=0.05)
        await child.start()
        assert child.pid is not None
        os.kill(child.pid, signal.SIGSTOP)
        stuck, queued = child.request(LoadVoices("fake", [], 0)), child.request(LoadVoices("fake", [], 0))
        with pytest.raises(EngineTimeout, match="the engine timed out; the audio so far is charged"):
            await asyncio.wait_for(stuck, 20)
        with pytest.raises(EngineError, match="the engine failed and is restarting"):
            await queued
        await until(lambda: child.restarts >= 1 and child.is_up)
        await child.stop()

    asyncio.run(test())


# ── the environment of children ───────────────────────────────────────────────────────────────────────────────

VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_openmp_threads_sleep_while_they_wait(unset: pytest.MonkeyPatch) -> None:
    unset.setenv("SOMETHING_ELSE", "kept")
    environment = child_environment()
    assert environment["OMP_WAIT_POLICY"] == "passive"
    assert 0 < int(environment["GOMP_SPINCOUNT"]) <= 5000
    assert environment["SOMETHING_ELSE"] == "kept"


@pytest.mark.parametrize("name", VARIABLES)
def test_a_setting_of_the_operator_replaces_the_defaults(unset: pytest.MonkeyPatch, name: str) -> None:
    unset.setenv(name, "of the operator")
    environment = child_environment()
    assert {key: environment[key] for key in VARIABLES if key in environment} == {name: "of the operator"}


def test_numpy_of_a_child_uses_one_thread_unless_the_operator_wants_more(unset: pytest.MonkeyPatch) -> None:
    unset.delenv("OPENBLAS_NUM_THREADS", raising=False)
    assert child_environment()["OPENBLAS_NUM_THREADS"] == "1"
    unset.setenv("OPENBLAS_NUM_THREADS", "4")
    environment = child_environment()
    assert (environment["OPENBLAS_NUM_THREADS"], environment["OMP_WAIT_POLICY"]) == ("4", "passive")


def test_speech_and_image_children_are_started_with_it(unset: pytest.MonkeyPatch) -> None:
    def environment_of(pid: int | None) -> dict[str, str]:
        entries = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
        return dict(entry.split("=", 1) for entry in entries if "=" in entry)

    async def test() -> None:
        config = {"model": "fake-1", "delay_ms": 1}
        voice = VoiceChild("tone", LoadVoices("fake", [], 0))
        images = EngineProcess("fake", "minitoolai.engines.images.fake", config, max_concurrency=1)
        try:
            await asyncio.gather(voice.start(), images.start())
            for pid in (voice.pid, images.pid):
                assert environment_of(pid).items() >= child_environment().items()
        finally:
            await asyncio.gather(voice.stop(), images.stop())

    asyncio.run(test())
