"""What hangs outside (mail, object store, webhooks, moderation) delays no request that does not need it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from tests.support.all_kinds import CATALOG
from tests.support.ask import HELLO
from tests.support.browse import Visitor
from tests.support.pace import TimeLimit
from tests.support.server import Account, ServerProcess
from tests.support.studio_http import job, wait
from tests.support.upstream import Exchange, Upstream
from tests.support.waiting import eventually

pytestmark = [pytest.mark.acceptance, pytest.mark.timing]
SIGN_UPS = 24
#: A request is a few milliseconds; the machine itself may add as many.
NOISE_S = 0.01
TRIES = 3


class Silent:
    """Accept connections and never say a word: a server that hangs."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._listener.getsockname()[1]
        self.accepted: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.accepted.append(self._listener.accept()[0])

    def close(self) -> None:
        """Break everything off, so that those who wait can end."""
        if self._listener.fileno() == -1:
            return
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self.accepted:
            connection.close()


@pytest.fixture
def silent() -> Iterator[Silent]:
    server = Silent()
    yield server
    server.close()


class Moderation(Upstream):
    """Pass every prompt, until it hangs."""

    def __init__(self) -> None:
        self.hangs = threading.Event()

        async def behave(exchange: Exchange) -> None:
            while self.hangs.is_set():
                await asyncio.sleep(0.05)
            exchange.answer(200, {"results": [{"flagged": False, "categories": {}}]})

        super().__init__(behave)


@pytest.fixture
def moderation() -> Iterator[Moderation]:
    with Moderation() as server:
        yield server


class Work:
    """Three kinds of request that need nobody outside: a chat, a repeated chat, and an image that exists."""

    def __init__(self, account: Account, image_url: str) -> None:
        self.account, self.image_url = account, image_url
        self.session = requests.Session()
        self._chat("once")

    def _chat(self, key: str = "") -> bytes:
        headers = self.account.headers | ({"idempotency-key": key} if key else {})
        # More than 64 kB, so that its hash is made in a thread.
        messages = [*HELLO, {"role": "user", "content": "x" * 70_000}] if key else HELLO
        body = {"model": "quick", "messages": messages, "max_tokens": 4, "stream": False}
        url = self.account.server.url + "/v1/chat/completions"
        answer = self.session.post(url, json=body, headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.content

    def _image(self) -> None:
        if self.image_url:
            answer = self.session.get(self.image_url, timeout=60)
            assert (answer.status_code, answer.content[:4]) == (200, b"\x89PNG")

    def took_s(self) -> dict[str, float]:
        """Return the median time of each kind."""
        kinds: dict[str, Callable[[], object]] = {
            "chat": self._chat,
            "repeated": lambda: self._chat("once"),
            "image": self._image,
        }
        return {name: statistics.median(_time_s(work) for _ in range(9)) for name, work in kinds.items()}

    def check(self, calm: dict[str, float]) -> None:
        """Each kind takes at most twice as long as before; the best of several tries counts."""
        noise = TimeLimit(NOISE_S, "s")
        for _ in range(TRIES):
            now = self.took_s()
            slow = {
                name: (now[name], calm_s) for name, calm_s in calm.items() if not noise.permits(now[name] - 2 * calm_s)
            }
            if not slow:
                return
        raise AssertionError(f"{slow}; {noise}")


def _time_s(work: Callable[[], object]) -> float:
    began_s = time.monotonic()
    work()
    return time.monotonic() - began_s


def sign_up_many(server: ServerProcess, silent: Silent) -> list[threading.Thread]:
    """Sign up many at once. Each waits until the mail server has accepted the address, or for some seconds."""
    before, numbers = len(silent.accepted), itertools.count()

    def sign_up() -> None:
        visitor = Visitor(server)
        visitor.open("/signup")
        visitor.submit("/signup", email=f"new{next(numbers)}@example.com", password="correct horse")

    threads = in_background(sign_up, SIGN_UPS)
    eventually(lambda: len(silent.accepted) > before)
    return threads


def in_background(work: Callable[[], object], times: int) -> list[threading.Thread]:
    def run() -> None:
        with contextlib.suppress(requests.RequestException, AssertionError):
            work()

    threads = [threading.Thread(target=run, daemon=True) for _ in range(times)]
    for thread in threads:
        thread.start()
    return threads


@pytest.mark.parametrize("what", ["mail", "webhook", "moderation", "all"])
def test_a_neighbour_that_hangs_delays_no_request_that_does_not_need_it(
    tmp_path: Path, silent: Silent, moderation: Moderation, what: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    env = {
        "MINITOOLAI_TRIES_FACTOR": "1000",
        "MINITOOLAI_SMTP_URL": f"smtp+plain://127.0.0.1:{silent.port}",
        "MINITOOLAI_MAIL_FROM": "MiniToolAI <hello@example.com>",
        "MINITOOLAI_PUBLIC_URL": f"http://127.0.0.1:{port}",
        "MINITOOLAI_WEBHOOK_INSECURE": "1",
        "MINITOOLAI_PROMPT_POLICY": "moderation",
        "MINITOOLAI_MODERATION_URL": moderation.base_url,
        "MINITOOLAI_IMAGE_QUEUE": "100",
    }
    process = ServerProcess(tmp_path, catalog=CATALOG, env=env)
    process.port = port
    with process as server:
        account = server.account()
        image = wait(account, job(account, model="painter"))["image_url"]
        work = Work(account, image)
        calm = work.took_s()
        threads: list[threading.Thread] = []
        if what in ("webhook", "all"):
            hook = f"http://127.0.0.1:{silent.port}/hook"
            jobs = [job(account, model="painter", webhook_url=hook) for _ in range(8)]
            for one in jobs:
                wait(account, one)
        if what in ("mail", "all"):
            threads += sign_up_many(server, silent)
        if what in ("moderation", "all"):
            moderation.hangs.set()
            threads += in_background(lambda: job(account, model="painter"), 24)
            time.sleep(0.5)
        work.check(calm)
        silent.close()
        moderation.hangs.clear()
        for thread in threads:
            thread.join(30)
        account.settled(within_s=60)


def test_an_object_store_that_hangs_delays_no_chat(tmp_path: Path, silent: Silent) -> None:
    env = {
        "MINITOOLAI_OBJECT_STORE": "s3://pictures",
        "MINITOOLAI_S3_ENDPOINT": f"http://127.0.0.1:{silent.port}",
        "MINITOOLAI_S3_ACCESS_KEY_ID": "test",
        "MINITOOLAI_S3_SECRET_ACCESS_KEY": "test",
        "MINITOOLAI_IMAGE_QUEUE": "100",
    }
    with ServerProcess(tmp_path, catalog=CATALOG, env=env) as server:
        account = server.account()
        work = Work(account, "")
        calm = work.took_s()
        for _ in range(8):
            job(account, model="painter")
        deadline_s = time.monotonic() + 10
        while not silent.accepted and time.monotonic() < deadline_s:
            time.sleep(0.05)
        assert silent.accepted
        work.check(calm)
        # The images cannot be stored, so the jobs would not end.
        server.kill()
