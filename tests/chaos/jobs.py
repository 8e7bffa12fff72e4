"""500 image jobs, a third of them edits, while what draws them is killed and frozen, and the server restarted.

Every job must end, charges must equal successes, nothing may be lost or delivered twice, and no chat may be delayed.
"""

from __future__ import annotations

import random
import signal
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.ask import post
from tests.support.gallery import (
    CATALOG,
    drawing_processes,
    hurt,
    job_counts,
    settle_jobs,
    submit,
    submit_edit,
    wrong_jobs,
)
from tests.support.server import Account, ServerProcess

ACCOUNTS = 5
#: A frozen process is given up after this long; a chat that waited for it would show.
SILENCE_S = 2.0
ENVIRONMENT = {"MINITOOLAI_IMAGE_SILENCE_S": str(SILENCE_S), "MINITOOLAI_IMAGE_QUEUE": "1000"}


@dataclass
class JobTally:
    """What the chaos came to."""

    jobs: int = 0
    succeeded: int = 0
    failed: int = 0
    kills: int = 0
    freezes: int = 0
    restarts: int = 0
    chats: int = 0
    #: Seconds of the slowest chat, and at the median, while something that draws was frozen.
    slowest_chat_s: float = 0.0
    median_chat_s: float = 0.0
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"sqlite jobs={self.jobs} succeeded={self.succeeded} failed={self.failed} kills={self.kills} "
            f"freezes={self.freezes} restarts={self.restarts} chats={self.chats} "
            f"chat_median={self.median_chat_s * 1000:.0f}ms chat_slowest={self.slowest_chat_s * 1000:.0f}ms "
            f"violations={len(self.violations)}"
        )


def run_jobs(folder: Path, *, jobs: int = 500, chaos_s: float = 180.0, sketches: int = 100, seed: int = 1) -> JobTally:
    """Submit, disturb for so long, wait for the end, examine. The embedded model draws `sketches` of the jobs."""
    tally = JobTally()
    server = ServerProcess(folder, catalog=CATALOG, env=ENVIRONMENT).start()
    try:
        chaos = _Chaos(server, tally, random.Random(seed), jobs, sketches)
        chaos.run(chaos_s)
        settle_jobs(server, within_s=180)
        tally.violations += wrong_jobs(server, chaos.acknowledged)
        counts = job_counts(server)
        tally.jobs, tally.succeeded, tally.failed = (
            sum(counts.values()),
            counts.get("succeeded", 0),
            counts.get("failed", 0),
        )
        server.stop()
    finally:
        server.kill()
    return tally


class _Chaos:
    """Customers, an enemy, and somebody who chats all the while."""

    def __init__(self, server: ServerProcess, tally: JobTally, draw: random.Random, jobs: int, sketches: int) -> None:
        self._server = server
        self._tally = tally
        self._draw = draw
        self._models = ["sketchy"] * sketches + ["quick"] * (jobs - sketches)
        draw.shuffle(self._models)
        self._accounts = [server.account("10") for _ in range(ACCOUNTS)]
        self._is_over = threading.Event()
        #: Held while the server is restarted: nobody asks then.
        self._up = threading.Lock()
        self._frozen_until_s = 0.0
        self._chats: list[float] = []
        self.acknowledged: set[int] = set()

    def run(self, chaos_s: float) -> None:
        with ThreadPoolExecutor(4) as pool:
            customers = [pool.submit(self._submit, chaos_s / 2) for _ in range(1)]
            talker = pool.submit(self._chat)
            self._disturb(chaos_s)
            self._is_over.set()
            for one in [*customers, talker]:
                one.result()
        self._tally.chats = len(self._chats)
        self._tally.slowest_chat_s = max(self._chats, default=0.0)
        self._tally.median_chat_s = statistics.median(self._chats) if self._chats else 0.0
        if not self._chats:
            self._tally.violations.append("nobody chatted while an engine was frozen")
        elif self._tally.median_chat_s > SILENCE_S / 4:
            self._tally.violations.append(f"chats took {self._tally.median_chat_s:.2f} s beside a frozen engine")

    def _submit(self, within_s: float) -> None:
        """All jobs, spread over this time."""
        for number, model in enumerate(self._models):
            account = self._accounts[number % ACCOUNTS]
            with self._up:
                send = submit_edit if number % 3 == 0 else submit
                self.acknowledged.add(send(account, model=model, prompt=f"a star {number}")["jobid"])
            time.sleep(within_s / len(self._models) * self._draw.random())

    def _chat(self) -> None:
        """One chat after the other; those beside a frozen engine are what counts."""
        account: Account = self._accounts[0]
        while not self._is_over.is_set():
            with self._up:
                started_s, is_frozen = time.monotonic(), time.monotonic() < self._frozen_until_s
                assert post(account, stream=False).status_code == 200
                if is_frozen:
                    self._chats.append(time.monotonic() - started_s)
            time.sleep(0.05)

    def _disturb(self, chaos_s: float) -> None:
        over_s = time.monotonic() + chaos_s
        restarts = [over_s - chaos_s * 2 / 3, over_s - chaos_s / 3]
        while time.monotonic() < over_s:
            if restarts and time.monotonic() > restarts[0]:
                restarts.pop(0)
                self._restart(gently=len(restarts) == 1)
            targets = drawing_processes(self._server.pid)
            if targets:
                self._hurt(self._draw.choice(targets))
            time.sleep(self._draw.uniform(0.2, 1.8))
        for _ in restarts:
            self._restart(gently=False)

    def _hurt(self, pid: int) -> None:
        """Killed; frozen for good; or frozen for a while, to come back as if nothing had been."""
        what = self._draw.choice(["kill", "freeze", "nap"])
        if what == "kill":
            self._tally.kills += 1
            hurt(pid, signal.SIGKILL)
            return
        self._tally.freezes += 1
        self._frozen_until_s = time.monotonic() + SILENCE_S
        hurt(pid, signal.SIGSTOP)
        if what == "nap":
            time.sleep(self._draw.uniform(0.2, 1.5))
            hurt(pid, signal.SIGCONT)

    def _restart(self, *, gently: bool) -> None:
        with self._up:
            self._tally.restarts += 1
            if gently:
                self._server.terminate()
                self._server.wait(30)
            else:
                self._server.kill()
            self._server.start()
