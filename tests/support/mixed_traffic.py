"""Send every kind of request to a server at a steady rate, as a crowd of customers does, and record what came back."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

import requests

from tests.support import catalogs, manners
from tests.support.ask import API, HELLO, OPENAI
from tests.support.browse import Visitor, new_user
from tests.support.server import Account, ServerProcess
from tests.support.studio_http import CATALOG as IMAGES
from tests.support.upstream import Behaviour, Exchange, Upstream

THREADS = 16
CUSTOMERS = 12
PAGES = ("/keys", "/balance", "/usage?days=30", "/usage/requests", "/studio", "/prices", "/usage/usage.csv?days=7")
SPEECH = """
[engines.tone]
kind = "fake"
model = "tone-1"

[speech.tone]
price = "15.00"
max_characters = 200_000
voice = "tone"
voices = [{ id = "tone", engine = "tone", language = "en", licence = "none" }]
"""
#: Engines with a child process each: they draw and speak for real, so they get few requests.
EMBEDDED = """
[engines.sketch]
kind = "sketch"
model = "minitoolai-sketch-1"

[image.sketch]
price = "0.0015"
engines = ["sketch"]

[engines.hibari]
kind = "hibari"
model = "hibari-0.2"

[speech."tts-1"]
price = "15.00"
max_characters = 200_000
voice = "heart"
voices = [{ id = "heart", engine = "hibari", language = "en-US", licence = "Apache-2.0" }]
"""


def catalog(upstream: Upstream, *, embedded: bool = False) -> str:
    """Return a catalog whose model `far` is served by the upstream with the shipped limits and circuit breaker.

    `pair` has a second upstream, at the same address, for fallbacks.
    """
    text = catalogs.FAKE + IMAGES + SPEECH + (EMBEDDED if embedded else "")
    for name in ("far", "second"):
        text += catalogs.upstream(name, upstream.base_url, "retries = 0")
    pair = '\n[chat.pair]\ninput = "0.15"\noutput = "0.60"\ncontext = 128_000\nmax_output = 4096\n'
    return text + pair + 'engines = ["far", "second"]\n'


def failing(share: float, seed: int = 1) -> Behaviour:
    """Answer, except for this share of the requests, which get a 500."""
    draw, good, bad = random.Random(seed), manners.answer(), manners.refuse(500)

    async def behave(exchange: Exchange) -> None:
        await (bad if draw.random() < share else good)(exchange)

    return behave


class MixedTraffic:
    """Customers who send all kinds of requests, `rate` a second, until the block ends.

    `answers` counts them by kind and status; `latency_ms` holds the duration of each plain chat.
    """

    def __init__(self, server: ServerProcess, rate: float, *, embedded: bool = False, seed: int = 1) -> None:
        self.answers: Counter[tuple[str, int]] = Counter()
        self.latency_ms: list[float] = []
        #: The first exceptions of clients: requests that got no answer at all.
        self.faults: list[str] = []
        self._server, self._rate = server, rate
        self._accounts = [server.account("1000.00") for _ in range(CUSTOMERS)]
        self._poor = server.account(credit=None)
        self._visitors = [new_user(server, f"visitor{number}@example.com") for number in range(2)]
        self._draw = random.Random(seed)
        self._numbers = itertools.count()
        self._stop = threading.Event()
        self._local = threading.local()
        #: Kinds of requests, and the share of each.
        self._kinds: dict[Callable[[], None], float] = {
            self.stream: 25, self.plain: 25, self.fall_back: 8, self.fast: 8, self.leave: 5, self.repeat: 4,
            self.embed: 4, self.respond: 4, self.speak: 4, self.draw_image: 3, self.cancel_image: 1.5,
            self.refused: 4, self.read: 3, self.visit: 1.5,
        }  # fmt: skip
        if embedded:
            self._kinds |= {self.draw_for_real: 0.2, self.speak_for_real: 0.2}

    def __enter__(self) -> MixedTraffic:
        self._started_s = time.monotonic()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="traffic")
        self._work = [self._pool.submit(self._send) for _ in range(THREADS)]
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._stop.set()
        for one in self._work:
            one.result()
        self._pool.shutdown()

    @property
    def sent(self) -> int:
        """Return the number of answers so far."""
        return sum(self.answers.values())

    def take_latency_ms(self) -> list[float]:
        """Return the durations since the last call."""
        taken, self.latency_ms = self.latency_ms, []
        return taken

    def _send(self) -> None:
        kinds, weights = list(self._kinds), list(self._kinds.values())
        while not self._stop.is_set():
            due_s = self._started_s + next(self._numbers) / self._rate
            if self._stop.wait(max(0.0, due_s - time.monotonic())):
                return
            kind = self._draw.choices(kinds, weights)[0]
            try:
                kind()
            except (requests.RequestException, KeyError, ValueError) as error:
                self.answers[kind.__name__, 0] += 1
                if len(self.faults) < 100:
                    self.faults.append(f"{kind.__name__}: {error}")

    # ── kinds of requests ─────────────────────────────────────────────────────────────────────────────────────

    @property
    def _session(self) -> requests.Session:
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
        session: requests.Session = self._local.session
        return session

    def _account(self) -> Account:
        return self._draw.choice(self._accounts)

    def _post(self, path: str, account: Account | None = None, **body: Any) -> requests.Response:
        return self._count(
            self._session.post(
                self._server.url + path, json=body, headers=(account or self._account()).headers, timeout=60
            )
        )

    def _count(self, answer: requests.Response, kind: str = "") -> requests.Response:
        path = (answer.request.path_url or "").partition("?")[0]
        self.answers[kind or path, answer.status_code] += 1
        return answer

    def stream(self) -> None:
        """Stream a chat from the upstream."""
        self._post(API, model="far", messages=HELLO, stream=True)

    def plain(self) -> None:
        """Ask the upstream for a whole answer, and take the time."""
        started_s = time.perf_counter()
        self._post(OPENAI, model="far", messages=HELLO)
        self.latency_ms.append((time.perf_counter() - started_s) * 1000)

    def fall_back(self) -> None:
        """Ask for a model with two upstreams."""
        self._post(OPENAI, model="pair", messages=HELLO, stream=self._draw.random() < 0.5)

    def fast(self) -> None:
        """Stream from an engine in the server."""
        self._post(API, model="quick", messages=HELLO, stream=True)

    def leave(self) -> None:
        """Disconnect in the middle of a stream."""
        body = {"model": "endless", "messages": HELLO, "stream": True}
        url, headers = self._server.url + API, self._account().headers
        with requests.post(url, json=body, headers=headers, timeout=60, stream=True) as answer:
            self._count(answer)
            next(answer.iter_content(64))

    def repeat(self) -> None:
        """Send one chat twice with the same `Idempotency-Key`."""
        account, name = self._account(), f"key-{next(self._numbers)}-{time.time_ns()}"
        body = {"model": "far", "messages": HELLO}
        for _ in range(2):
            headers = account.headers | {"idempotency-key": name}
            self._count(self._session.post(self._server.url + OPENAI, json=body, headers=headers, timeout=60))

    def embed(self) -> None:
        """Ask for a vector."""
        self._post("/v1/embeddings", model="vectors", input="a planet")

    def respond(self) -> None:
        """Use the format of `/v1/responses`."""
        self._post("/v1/responses", model="quick", input="a planet")

    def speak(self) -> None:
        """Ask for speech."""
        self._post("/v1/audio/speech", model="tone", input="Saturn has the most moons.")

    def draw_image(self) -> None:
        """Submit an image job, wait for it and download the image."""
        self._job("flat")

    def draw_for_real(self) -> None:
        """Draw with the embedded model, in its process."""
        self._job("sketch", prompt="a red apple")

    def speak_for_real(self) -> None:
        """Speak with the embedded voice, in its process."""
        self._post("/v1/audio/speech", model="tts-1", input="Saturn.")

    def cancel_image(self) -> None:
        """Submit an image job that takes a while, and cancel it."""
        job = self._submit("slow")
        if job is not None:
            url = f"{self._server.url}/api/texttoimage/jobs/{job['jobid']}"
            cancelled = self._session.delete(url, params={"signature": job["signature"]}, timeout=60)
            self._count(cancelled, "DELETE /api/texttoimage/jobs/")

    def refused(self) -> None:
        """Send what the server refuses: no money, no such model, no such field, no key."""
        refusal = self._draw.randrange(4)
        if refusal == 0:
            self._post(OPENAI, self._poor, model="far", messages=HELLO)
        elif refusal == 1:
            self._post(OPENAI, model="no-such-model", messages=HELLO)
        elif refusal == 2:
            self._post(OPENAI, model="far", messages=[])
        else:
            self._count(self._session.post(self._server.url + OPENAI, json={}, timeout=60))

    def read(self) -> None:
        """Read what a program reads: models, health."""
        path = self._draw.choice(("/v1/models", "/healthz", "/readyz", "/openapi.json"))
        self._count(self._session.get(self._server.url + path, headers=self._account().headers, timeout=60))

    def visit(self) -> None:
        """Open a page of the portal."""
        visitor: Visitor = self._draw.choice(self._visitors)
        path = self._draw.choice(PAGES)
        self._count(visitor.get(visitor.url(path), timeout=60), path)

    def _submit(self, model: str, prompt: str = "a red apple") -> dict[str, Any] | None:
        answer = self._post("/api/texttoimage/", model=model, prompt=prompt, width=256, height=256)
        return answer.json() if answer.status_code == 200 else None

    def _job(self, model: str, prompt: str = "a red apple") -> None:
        job = self._submit(model, prompt)
        if job is None:
            return
        sent = {"jobid": job["jobid"], "signature": job["signature"]}
        for _ in range(120):
            state = self._session.post(self._server.url + "/api/texttoimage/jobs/", json=sent, timeout=60).json()
            if state["status"] in ("success", "error"):
                break
            if self._stop.wait(0.25):
                return
        if state["status"] == "success":
            self._count(self._session.get(state["image_url"], timeout=60), "image")
