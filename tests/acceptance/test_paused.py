"""A process is paused beyond its leases and goes on, and wall clocks are set to and fro: no answer looks complete that
the books do not carry, and no other is broken off.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from minitoolai.settings import Secret
from minitoolai.storage.tables.ledger import broken_invariants
from tests.support import catalogs, manners
from tests.support.cluster import Cluster
from tests.support.load import API, OPENAI, Caller, Seen
from tests.support.server import Account, ServerProcess
from tests.support.upstream import Behaviour, Exchange, Upstream
from tests.support.wall_clock import WallClock, stepping

CREDIT = 100_000_000_000
PRICE_IN, PRICE_OUT, PRICE_CHARACTER = 150, 600, 15_000
TOKENS = 300
#: Until the first checkpoints are written, and no shorter stream has ended.
BEFORE_S = 3.0
VOICE = """
[engines.tone]
kind = "fake"
model = "tone-1"
delay_ms = 200

[speech.tone]
price = "15.00"
max_characters = 200_000
voice = "tone"
voices = [{ id = "tone", engine = "tone", language = "en", licence = "none" }]
"""
#: Takes a fifth of a second to speak.
SENTENCE = "Sentence number 000 of many. "


@dataclass
class Asked:
    """One request: where it goes, what it says, and how many seconds its answer takes."""

    path: str
    body: dict[str, Any]
    takes_s: float
    leave_after: int | None = None


def chat(takes_s: float, path: str = API, *, stream: bool = True, leave_after: int | None = None) -> Asked:
    """A chat of 300 tokens, in the form of its address; the upstream reads in it how long it takes."""
    said = f"take {takes_s}"
    body: dict[str, Any] = {"model": "slow", "stream": stream}
    if path == "/v1/responses":
        body["input"] = said
    elif path == "/v1/completions":
        body |= {"prompt": said, "max_tokens": TOKENS}
    else:
        body["messages"] = [{"role": "user", "content": said}]
    if stream and path != "/v1/responses":
        body["stream_options"] = {"include_usage": True}
    return Asked(path, body, takes_s, leave_after)


def speech(takes_s: float, **fields: Any) -> Asked:
    text = SENTENCE * round(takes_s / 0.2)
    return Asked("/v1/audio/speech", {"model": "tone", "input": text, "stream_format": "sse", **fields}, takes_s)


#: Twenty streams: some have ended upstream before the process goes on, some go on after that.
STREAMS = [chat(5.0 + 0.1 * number) for number in range(10)] + [chat(26.0 + 0.1 * number) for number in range(10)]
#: Streams at another process, which is not paused.
BESIDE = [chat(4.0 + 3.0 * number) for number in range(9)]
#: To what the wall clocks are set, and how often: a dozen times while a process is paused for twelve seconds.
SHIFTS_S = (60.0, -60.0, 3600.0, -86_400.0)
STEP_EVERY_S = 2.0
#: And one of every other kind that is charged while it runs.
OTHERS = [
    *(chat(takes_s, OPENAI, stream=False) for takes_s in (6.0, 27.0)),
    *(chat(takes_s, "/v1/completions") for takes_s in (6.0, 27.0)),
    *(chat(takes_s, "/v1/responses") for takes_s in (6.0, 27.0)),
    *(speech(takes_s) for takes_s in (6.0, 27.0)),
    chat(27.0, leave_after=5),
]


async def behave(exchange: Exchange) -> None:
    """Take as long as the prompt says, whoever listens; at the address of either form."""
    prompt = exchange.body.get("prompt") or exchange.body["messages"][0]["content"]
    takes_s = float((prompt[0] if isinstance(prompt, list) else prompt).split()[1])
    if not exchange.body.get("stream"):
        await asyncio.sleep(takes_s)
    words = ["word "] * TOKENS
    how: Behaviour = manners.answer(words, delay_s=takes_s / TOKENS)
    if exchange.path.endswith("/completions") and not exchange.path.endswith("/chat/completions"):
        how = slow_text(takes_s / TOKENS)
    await how(exchange)


def slow_text(delay_s: float) -> Behaviour:
    async def tell(exchange: Exchange) -> None:
        exchange.begin()
        for number in range(TOKENS + 1):
            await asyncio.sleep(delay_s)
            finish = "stop" if number == TOKENS else None
            choice = {"text": "" if finish else "word ", "index": 0, "logprobs": None, "finish_reason": finish}
            exchange.event({**manners.head("text_completion"), "choices": [choice]})
        exchange.event({**manners.head("text_completion"), "choices": [], "usage": manners.usage(TOKENS)})
        exchange.event("[DONE]")
        exchange.end()

    return tell


# ── what came of it ───────────────────────────────────────────────────────────────────────────────────────


def events(seen: Seen) -> list[Any]:
    """The data of each event; a `[DONE]` as it is."""
    lines = [line[6:] for line in seen.body.decode().splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def usage_told(asked: Asked, seen: Seen) -> tuple[int, int] | None:
    """Input and output of an answer that said it was complete; None for one that did not."""
    if asked.path == "/v1/responses":
        last = events(seen)[-1]
        told = last["response"]["usage"] if last["type"] == "response.completed" else None
    elif asked.path == "/v1/audio/speech":
        last = events(seen)[-1]
        told = last["usage"] if last.get("type") == "speech.audio.done" else None
    else:
        told = seen.usage if seen.done and seen.status == 200 else None
        assert told is not None or not seen.done or seen.status != 200, seen.body[-300:]
    if told is None:
        return None
    return told.get("prompt_tokens", told.get("input_tokens")), told.get("completion_tokens", told.get("output_tokens"))


def error_of(asked: Asked, seen: Seen) -> dict[str, Any] | None:
    """The error that an answer ended in; None for one that ended silently."""
    if seen.status != 200:
        return json.loads(seen.body)["error"]  # type: ignore[no-any-return]
    last = events(seen)[-1]
    if asked.path == "/v1/responses":
        return last["response"]["error"]  # type: ignore[no-any-return]
    return last.get("error") if isinstance(last, dict) else None


def judge(account: Account, asked: Asked, seen: Seen) -> str:
    """`complete`, `error` or `left`, once what the caller saw has been compared with the books."""
    row, taken = account.server.generation(seen.name), account.server.transfers_of(seen.name)
    assert sum(taken) == row["cost"]
    assert len(taken) <= 1
    if seen.left:
        return "left"
    told = usage_told(asked, seen)
    if told is None:
        error = error_of(asked, seen)
        assert error, f"{asked.path} ended silently: {seen.body[-300:]!r}"
        assert "while the server was paused" in error["message"]
        assert (row["state"], row["error_code"]) == ("failed", "interrupted")
        return "error"
    price = PRICE_CHARACTER if asked.path == "/v1/audio/speech" else PRICE_IN
    assert (row["state"], row["input_units"], row["output_units"]) == ("succeeded", *told), (asked.path, row)
    assert row["cost"] == told[0] * price + told[1] * PRICE_OUT
    return "complete"


async def ask_and_pause(
    account: Account, pid: int, pause_s: float, clocks: Sequence[WallClock], beside_port: int | None
) -> list[tuple[Asked, Seen]]:
    """All of them at once; after three seconds the process is paused. Meanwhile, the clocks are set to and fro."""

    async def ask(asked: Asked, port: int = account.server.port) -> tuple[Asked, Seen]:
        caller = Caller(port, account.key)
        seen = await caller.ask(asked.body, path=asked.path, leave_after=asked.leave_after)
        await caller.close()
        return asked, seen

    tasks = [asyncio.ensure_future(ask(asked)) for asked in (*STREAMS, *OTHERS)]
    if beside_port is not None:
        tasks += [asyncio.ensure_future(ask(asked, beside_port)) for asked in BESIDE]
    async with stepping(clocks, SHIFTS_S, STEP_EVERY_S):
        await asyncio.sleep(BEFORE_S)
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(pause_s)
        finally:
            os.kill(pid, signal.SIGCONT)
        return await asyncio.wait_for(asyncio.gather(*tasks), 120)


def run_paused(
    server: ServerProcess, pause_s: float, clocks: Sequence[WallClock], beside: ServerProcess | None = None
) -> tuple[Counter[str], Counter[str]]:
    """How the twenty streams and the others ended. All at the process beside are whole."""
    account = server.account("100")
    seen = asyncio.run(ask_and_pause(account, server.pid, pause_s, clocks, beside.port if beside else None))
    left = account.settled(within_s=40)
    ended = [judge(account, *one) for one in seen]
    (total,) = server.read(lambda c: c.execute("SELECT sum(cost) FROM generations"))[0]
    assert CREDIT - left == total
    assert server.read(broken_invariants) == {}
    first, last = len(STREAMS), len(STREAMS) + len(OTHERS)
    streams, others, whole = Counter(ended[:first]), Counter(ended[first:last]), Counter(ended[last:])
    steps = sum(clock.steps for clock in clocks)
    print(
        f"paused for {pause_s:g} s, clocks set {steps} times: streams {dict(streams)}, others {dict(others)},"
        f" beside {dict(whole)}"
    )
    assert whole == ({"complete": len(BESIDE)} if beside else {})
    assert steps >= 12
    return streams, others


@pytest.fixture
def catalog(upstream: Upstream) -> str:
    upstream.behave = behave
    return catalogs.FAKE + VOICE + catalogs.upstream("slow", upstream.base_url, "bills_after_cancel = true")


def test_one_of_two_processes_is_paused_and_the_other_recovers_its_holds(
    tmp_path: Path, cluster: Cluster, catalog: str
) -> None:
    env = {"MINITOOLAI_DATABASE_URL": cluster.books(), "MINITOOLAI_SECRET_KEY": "x" * 32}

    clocks = []

    def new_server(name: str) -> ServerProcess:
        (tmp_path / name).mkdir()
        clocks.append(WallClock(tmp_path / name))
        made = ServerProcess(tmp_path / name, catalog=catalog, env=env | clocks[-1].env)
        made.settings = replace(made.settings, secret_key=Secret("x" * 32))
        return made

    with new_server("other") as other, new_server("paused") as paused:
        streams, others = run_paused(paused, 19.0, clocks, other)
        assert streams == {"error": len(STREAMS)}
        assert others == {"error": len(OTHERS) - 1, "left": 1}


def test_the_only_process_is_paused_and_recovers_none_of_its_own_holds(tmp_path: Path, catalog: str) -> None:
    clock = WallClock(tmp_path)
    with ServerProcess(tmp_path, catalog=catalog, env=clock.env) as server:
        streams, others = run_paused(server, 12.0, [clock])
        assert streams == {"complete": len(STREAMS)}
        assert others == {"complete": len(OTHERS) - 1, "left": 1}
