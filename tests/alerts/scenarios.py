"""Servers in trouble, one kind each, and the alerts that must fire."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support import manners
from tests.support.books import new_file
from tests.support.cluster import Cluster
from tests.support.gallery import WorkerProcess
from tests.support.mixed_traffic import MixedTraffic, catalog, failing
from tests.support.server import ServerProcess
from tests.support.upstream import Upstream
from tests.support.watch import address

#: Share of the upstream's answers that are errors while all is well.
USUAL_ERRORS = 0.02
#: Seconds of a stop, and of the time to the next, for an event loop that stands still again and again.
STOPPED_S, RUNNING_S = 4.0, 6.0
#: Size of the file system for the full disk. A new database takes 1 MB of it.
DISK = "24m"


class Stage:
    """A server with an upstream and traffic, and the means to bring trouble."""

    def __init__(self, stack: ExitStack, folder: Path, *, rate: float, env: dict[str, str] | None = None) -> None:
        self.stack = stack
        self.folder = folder
        self.upstream = stack.enter_context(Upstream(failing(USUAL_ERRORS), records=False))
        settings = {"MINITOOLAI_METRICS_LISTEN": "127.0.0.1:0", "MINITOOLAI_STREAMS": "1000"} | (env or {})
        self.server = ServerProcess(folder, catalog=catalog(self.upstream), env=settings)
        self.server.start()
        stack.callback(self._end)
        self.traffic = stack.enter_context(MixedTraffic(self.server, rate))

    def _end(self) -> None:
        os.kill(self.server.pid, signal.SIGCONT)
        self.server.kill()

    @property
    def target(self) -> str:
        """Return host and port of the metrics."""
        return address(self.server).removeprefix("http://").partition("/")[0]


@dataclass(frozen=True)
class Scenario:
    """One kind of trouble. `wanted` alerts must fire, `allowed` ones may."""

    name: str
    stage: Callable[[ExitStack, Path, float], tuple[Stage, Callable[[], None]]]
    wanted: frozenset[str]
    allowed: frozenset[str] = frozenset()


def _healthy(stack: ExitStack, folder: Path, rate: float) -> tuple[Stage, Callable[[], None]]:
    return Stage(stack, folder, rate=rate), lambda: None


def _dead_upstream(stack: ExitStack, folder: Path, rate: float) -> tuple[Stage, Callable[[], None]]:
    stage = Stage(stack, folder, rate=rate)
    return stage, stage.upstream.hang_up


def _half_dead_upstream(stack: ExitStack, folder: Path, rate: float) -> tuple[Stage, Callable[[], None]]:
    stage = Stage(stack, folder, rate=rate)

    def trouble() -> None:
        stage.upstream.behave = failing(0.5)

    return stage, trouble


def _full_disk(stack: ExitStack, folder: Path, rate: float) -> tuple[Stage, Callable[[], None]]:
    disk = stack.enter_context(_small_disk(folder / "data"))
    os.chmod(disk, 0o700)
    new_file(disk)
    stage = Stage(stack, folder, rate=rate)

    def trouble() -> None:
        free = shutil.disk_usage(disk).free
        with (disk / "ballast").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free - 16_384)

    return stage, trouble


@contextmanager
def _small_disk(folder: Path) -> Iterator[Path]:
    """Mount a small file system. Needs the rights to do so, as root in a container has them."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _blocked_loop(stack: ExitStack, folder: Path, rate: float) -> tuple[Stage, Callable[[], None]]:
    stage = Stage(stack, folder, rate=rate)
    return stage, lambda: os.kill(stage.server.pid, signal.SIGSTOP)


def _pausing_loop(stack: ExitStack, folder: Path, rate: float) -> tuple[Stage, Callable[[], None]]:
    stage = Stage(stack, folder, rate=rate)
    over = threading.Event()

    def pause() -> None:
        while not over.wait(RUNNING_S):
            os.kill(stage.server.pid, signal.SIGSTOP)
            over.wait(STOPPED_S)
            os.kill(stage.server.pid, signal.SIGCONT)

    thread = threading.Thread(target=pause)

    def end() -> None:
        over.set()
        if thread.ident is not None:
            thread.join()

    stack.callback(end)
    return stage, thread.start


def _hanging_store(stack: ExitStack, folder: Path, rate: float) -> tuple[Stage, Callable[[], None]]:
    silent = stack.enter_context(Upstream(_accept_objects, records=False))
    env = {
        "MINITOOLAI_OBJECT_STORE": "s3://images",
        "MINITOOLAI_S3_ENDPOINT": f"http://127.0.0.1:{silent.port}",
        "MINITOOLAI_S3_ACCESS_KEY_ID": "id",
        "MINITOOLAI_S3_SECRET_ACCESS_KEY": "secret",
    }
    stage = Stage(stack, folder, rate=rate, env=env)

    def trouble() -> None:
        silent.behave = manners.hang_before_head

    return stage, trouble


async def _accept_objects(exchange: manners.Exchange) -> None:
    """Answer like an S3 server that stores everything."""
    exchange.answer(200, b"", etag='"0"')


def _lost_worker(stack: ExitStack, folder: Path, rate: float) -> tuple[Stage, Callable[[], None]]:
    cluster = stack.enter_context(_cluster())
    stage = Stage(stack, folder, rate=rate, env={"MINITOOLAI_DATABASE_URL": cluster.url(cluster.create())})
    worker = WorkerProcess(stage.server, MINITOOLAI_METRICS_LISTEN="127.0.0.1:0")
    worker.start()
    stack.callback(worker.kill)
    # It has registered once it reports for the first time.
    time.sleep(6)
    return stage, lambda: os.kill(worker.pid, signal.SIGKILL)


@contextmanager
def _cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.remove()


def _replaced_database(stack: ExitStack, folder: Path, rate: float) -> tuple[Stage, Callable[[], None]]:
    stage = Stage(stack, folder, rate=rate)

    def trouble() -> None:
        path = stage.server.data_dir / "minitoolai.db"
        path.rename(path.with_suffix(".old"))
        new_file(stage.server.data_dir)

    return stage, trouble


_OF_FAILURES = frozenset({"ManyErrors", "EngineFails", "RequestsFail"})
SCENARIOS = (
    Scenario("healthy", _healthy, frozenset()),
    Scenario("dead upstream", _dead_upstream, frozenset({"RequestsFail", "EngineRests"}), _OF_FAILURES),
    Scenario("half-dead upstream", _half_dead_upstream, frozenset({"RequestsFail", "EngineFails"}), _OF_FAILURES),
    Scenario(
        "full disk", _full_disk, frozenset({"DiskFull", "WritesFail"}), _OF_FAILURES | {"ChargesPutOff", "StoreFails"}
    ),
    Scenario("blocked event loop", _blocked_loop, frozenset({"NobodyReady"})),
    Scenario("pausing event loop", _pausing_loop, frozenset({"EventLoopHeld"})),
    Scenario("hanging S3", _hanging_store, frozenset({"StoreFails"})),
    Scenario("lost worker", _lost_worker, frozenset({"WorkerLost"})),
    Scenario(
        "replaced database",
        _replaced_database,
        frozenset({"DatabaseReplaced"}),
        _OF_FAILURES | {"NobodyReady", "DatabaseAway", "WritesFail", "ChargesPutOff"},
    ),
)
