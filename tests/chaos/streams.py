"""Upstreams that drop at token k, leave out the usage, hang, fail after their 200; callers who leave: exact charges."""

from __future__ import annotations

import asyncio
import random
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minitoolai.storage.tables.ledger import broken_invariants
from tests.support import catalogs, manners, tiktokens
from tests.support.load import Caller, Seen
from tests.support.outside_auditor import OutsideAuditor, Truth
from tests.support.server import Account, ServerProcess
from tests.support.upstream import Behaviour, Exchange, Upstream
from tests.support.waiting import eventually

PRICE_IN, PRICE_OUT, CALLERS = 150, 600, 24


@dataclass
class StreamTally:
    """What the streams came to."""

    streams: int = 0
    #: Answers whose end was seen.
    whole: int = 0
    left: int = 0
    broken: int = 0
    refused: int = 0
    violations: list[str] = field(default_factory=list)


@dataclass
class Case:
    """One request: how the upstream behaves, after how many words it breaks, and when the caller leaves."""

    behave: Behaviour
    leave_after: int | None
    words: list[str]
    seen: Seen = field(default_factory=Seen)


def run_streams(folder: Path, streams: int, *, seed: int = 1, url: str = "") -> StreamTally:
    """So many requests to an upstream that misbehaves as the seed says. `url`: on PostgreSQL."""
    draw, tally = random.Random(seed), StreamTally(streams)
    cases = {number: _case(draw) for number in range(streams)}

    async def behave(exchange: Exchange) -> None:
        await cases[int(exchange.body["messages"][0]["content"].split()[1])].behave(exchange)

    with Upstream(behave) as upstream:
        env = {"MINITOOLAI_DATABASE_URL": url} if url else None
        with ServerProcess(folder, catalog=catalogs.with_upstream(upstream.base_url), env=env) as server:
            account = server.account("100")
            first = dict(list(cases.items())[:CALLERS])
            asyncio.run(_ask(account, first))
            time.sleep(0.5)
            files = server.open_files()
            asyncio.run(_ask(account, {n: case for n, case in cases.items() if n not in first}))
            try:
                account.settled(within_s=12)
                eventually(lambda: server.open_files() <= files + CALLERS // 2, within_s=10)
            except AssertionError as late:
                tally.violations.append(f"12 s after the last answer: {late}")
            auditor = OutsideAuditor(PRICE_IN, PRICE_OUT)
            for number, case in cases.items():
                tally.violations += [f"stream {number}: {wrong}" for wrong in _wrong(server, case, tally)]
                if case.seen.name:
                    # The prompt has four tokens for its message, and the upstream reports seven.
                    prompt, sent = tiktokens.count(f"case {number}") + 4, {(0, "content"): "".join(case.words)}
                    row = server.generation(case.seen.name)
                    told = None if row["estimated"] or not row["cost"] else (manners.PROMPT_TOKENS, len(case.words))
                    auditor.check(f"stream {number}", case.seen, Truth(prompt, sent, told, is_named=False), row)
            tally.violations += auditor.findings
            spent = 100_000_000_000 - account.money().posted
            (total,) = server.read(lambda c: c.execute("SELECT sum(cost) FROM generations"))[0]
            if spent != total:
                tally.violations.append(f"{spent} were taken for answers that cost {total}")
            tally.violations += [f"{name}: {rows}" for name, rows in server.read(broken_invariants).items()]
    return tally


def _case(draw: random.Random) -> Case:
    words = [f"word{n} " for n in range(draw.randint(1, 12))]
    leave = draw.randint(0, 6) if draw.random() < 0.25 else None
    pace_s = draw.choice((0.0, 0.01, 0.03))
    manner = draw.choice(("good", "good", "no usage", "no done", "reset", "close", "error", "hang", "500", "rubbish"))
    made = {
        "good": manners.answer(words, delay_s=pace_s),
        "no usage": manners.answer(words, delay_s=pace_s, with_usage=False),
        "no done": manners.answer(words, delay_s=pace_s, with_usage=False, done=False),
        "500": manners.refuse(500),
        "rubbish": manners.body(b"<html>200 all the same</html>"),
    }
    return Case(made.get(manner) or manners.break_off(manner, words), leave, words)


async def _ask(account: Account, cases: dict[int, Case]) -> None:
    left = list(cases.items())

    async def work() -> None:
        caller = Caller(account.server.port, account.key)
        while left:
            number, case = left.pop()
            body: dict[str, Any] = {
                "model": "standin",
                "messages": [{"role": "user", "content": f"case {number}"}],
                "max_completion_tokens": 64,
            }
            case.seen = await caller.ask(body, leave_after=case.leave_after)
        await caller.close()

    await asyncio.gather(*(work() for _ in range(CALLERS)))


def _wrong(server: ServerProcess, case: Case, tally: StreamTally) -> list[str]:
    """What was charged against what was seen: all of it, once, and nothing for an answer that never began."""
    seen = case.seen
    if seen.status not in (0, 200):
        tally.refused += 1
        return [] if seen.status in (502, 504) else [f"status {seen.status}: {seen.body[:200]!r}"]
    if not seen.name:
        tally.left += 1
        return []
    row, taken = server.generation(seen.name), server.transfers_of(seen.name)
    price = row["input_units"] * PRICE_IN + row["output_units"] * PRICE_OUT
    wrong = [] if sum(taken) == row["cost"] and len(taken) <= 1 else [f"cost {row['cost']}, taken {taken}"]
    if row["cost"] not in (0, price):
        wrong.append(f"{row} is worth {price}")
    if seen.left:
        tally.left += 1
        # Who hung up had bytes on their way to him; what he did read, he pays.
        if row["output_units"] < seen.tokens - 1:
            wrong.append(f"left after {seen.tokens} tokens, charged for {row['output_units']}")
    elif seen.done:
        tally.whole += 1
        told = seen.usage or {}
        if (told.get("prompt_tokens"), told.get("completion_tokens")) != (row["input_units"], row["output_units"]):
            wrong.append(f"told {told}, charged {row}")
        if not row["cost"]:
            wrong.append("a whole answer for nothing")
    else:
        tally.broken += 1
        if row["output_units"] != _counted(seen) or bool(row["cost"]) != bool(seen.tokens):
            wrong.append(f"{seen.tokens} tokens came, charged {row}")
    return wrong


def _counted(seen: Seen) -> int:
    """A token for each delta or for each five bytes, whichever is more."""
    text = "".join(re.findall(r'"content":"([^"]*)"', seen.body.decode()))
    return max(seen.tokens, (len(text.encode()) + 2) // 5)
