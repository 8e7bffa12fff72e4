"""Chats with an upstream that reports odd usages and clients that leave, audited from outside."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from minitoolai.storage.tables.ledger import broken_invariants
from tests.support import manners, odd_answers
from tests.support.load import OPENAI, Caller, Seen
from tests.support.odd_answers import Plan
from tests.support.outside_auditor import OutsideAuditor
from tests.support.server import ServerProcess
from tests.support.upstream import Exchange, Upstream

PRICES = 150, 600
Honest = tuple[dict[int, Plan], dict[int, Seen], dict[int, dict[str, Any]], OutsideAuditor]
CALLERS = 24
pytestmark = pytest.mark.acceptance


@contextmanager
def serving(folder: Path, plans: dict[int, Plan], fault: str = "") -> Iterator[ServerProcess]:
    """Serve these plans, with a fault in the counting if one is named."""
    env = {}
    if fault:
        (folder / "sitecustomize.py").write_text(fault)
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))
    with Upstream(odd_answers.answering(plans)) as upstream:
        catalog = odd_answers.catalog(upstream.base_url)
        with ServerProcess(folder, catalog=catalog, env=env) as server:
            yield server
            if fault:
                # Its own audit may object, too.
                server.kill()


def ask(server: ServerProcess, plans: dict[int, Plan]) -> tuple[OutsideAuditor, dict[int, Seen]]:
    """Send every request, wait until all are charged, and audit the charges."""
    account = server.account("1000")
    seen: dict[int, Seen] = {}

    async def work() -> None:
        left = list(plans.values())[::-1]

        async def call(caller: Caller) -> None:
            while left:
                plan = left.pop()
                seen[plan.number] = await caller.ask(plan.body, path=OPENAI, leave_after=plan.leave_after)
            await caller.close()

        await asyncio.gather(*(call(Caller(server.port, account.key)) for _ in range(CALLERS)))

    asyncio.run(work())
    left_nano = account.settled(within_s=20)
    auditor, total = OutsideAuditor(*PRICES), 0
    for number, plan in plans.items():
        row = server.generation(seen[number].name)
        total += row["cost"]
        auditor.check(f"{plan.number} ({plan.engine}, {plan.report})", seen[number], plan.truth(), row)
    if 1000 * 10**9 - left_nano != total:
        auditor.findings.append(f"{1000 * 10**9 - left_nano} were taken for answers that cost {total}")
    return auditor, seen


def test_two_thousand_streams_are_charged_what_was_delivered(tmp_path: Path) -> None:
    plans = {number: odd_answers.odd_plan(number) for number in range(2000)}
    with serving(tmp_path, plans) as server:
        auditor, seen = ask(server, plans)
        assert server.read(broken_invariants) == {}
    assert auditor.findings == []
    assert auditor.checked == 2000
    assert sum(one.left for one in seen.values()) > 200
    assert sum(one.done for one in seen.values()) > 500


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Honest:
    """Five hundred answers with honest reports."""
    plans = {number: odd_answers.honest_plan(number) for number in range(500)}
    with serving(tmp_path_factory.mktemp("honest"), plans) as server:
        auditor, seen = ask(server, plans)
        rows = {number: server.generation(seen[number].name) for number in plans}
    return plans, seen, rows, auditor


def test_no_honest_report_is_disbelieved(honest: Honest) -> None:
    plans, seen, rows, auditor = honest
    assert not auditor.findings, "\n".join(auditor.findings)
    assert [plans[number] for number, row in rows.items() if row["estimated"]] == []
    assert all(one.done for one in seen.values())


#: Faults in the counting, as patches of the program.
FAULTS = {
    "one token per event": """
import minitoolai.core.counting as c
import minitoolai.engines.tokenizers as t
t.OpenAITokenizer.count = lambda self, text: 1
c.estimate_tokens = lambda size: 0
""",
    "images ignored": """
import minitoolai.core.counting as c
real = c.estimate_prompt
c.estimate_prompt = lambda request, image_tokens=None, tokenizer=None: real(request, None, tokenizer)
""",
    "zeros believed": """
import minitoolai.core.counting as c
real = c._judge_count
c._judge_count = lambda told, *a, **k: (0, "") if told == 0 else real(told, *a, **k)
""",
    "the hold charged to a leaver": """
import dataclasses
import minitoolai.billing.charging as b
real = b.Charging.settle
def settle(self, reservation, cost, outcome, **more):
    return real(self, reservation, reservation.amount if outcome.error_code == "client_left" else cost, outcome, **more)
b.Charging.settle = settle
""",
    "anything believed": """
import minitoolai.core.counting as c
real = c._judge_count
c._judge_count = lambda told, least, most, is_due: (told, "") if told > 0 else real(told, least, most, is_due=is_due)
c.LARGEST_PLAUSIBLE = 2**62
""",
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_broken_counter_is_caught(tmp_path: Path, fault: str) -> None:
    plans = {number: odd_answers.odd_plan(number) for number in range(60)}
    with serving(tmp_path, plans, fault) as server:
        auditor, _ = ask(server, plans)
    assert auditor.findings


def test_a_client_that_lies_about_what_it_got_is_caught(honest: Honest) -> None:
    plans, seen, rows, _ = honest
    number = next(number for number, plan in plans.items() if plan.stream)
    plan, told, row = plans[number], seen[number], rows[number]
    lies = {
        "more than was sent": (replace(told, body=told.body.replace(b'"content":"', b'"content":"more ', 2)), row),
        "an end that did not come": (told, {**row, "state": "failed"}),
        "another usage": (replace(told, body=told.body.replace(b'_tokens":', b'_tokens":1')), row),
    }
    for name, (client, books) in lies.items():
        judge = OutsideAuditor(*PRICES)
        judge.check(name, client, plan.truth(), books)
        assert judge.findings, name


@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
def test_a_stopped_server_charges_what_was_sent(tmp_path: Path, how: str) -> None:
    number = next(number for number in range(1000) if _is_long(odd_answers.odd_plan(number)))
    plan = replace(odd_answers.odd_plan(number), engine="named", leave_after=None, report="missing")
    over = threading.Event()

    async def behave(exchange: Exchange) -> None:
        exchange.begin()
        for _, delta in plan.deltas:
            exchange.event(manners.chunk(delta))
            plan.sent += 1
        over.set()
        await exchange.hang()

    with Upstream(behave) as upstream:
        env = {"MINITOOLAI_DRAIN_TIMEOUT_S": "1"}
        with ServerProcess(tmp_path, catalog=odd_answers.catalog(upstream.base_url), env=env) as server:
            account = server.account("10")
            seen = asyncio.run(_ask_and_stop(server, Caller(server.port, account.key), plan, over, how))
            server.start()
            account.settled(within_s=20)
            row = server.generation(seen.name)
    truth = plan.truth()
    assert (seen.left, seen.done, row["estimated"]) == (False, False, 1)
    if how == "SIGTERM":
        auditor = OutsideAuditor(*PRICES)
        auditor.check(how, seen, truth, row)
        assert not auditor.findings
        assert row["output_units"] == truth.output
    else:
        # The last checkpoint is charged, which is an estimate by bytes.
        assert 0.2 <= row["cost"] / (truth.prompt * PRICES[0] + truth.output * PRICES[1]) <= 1.75


async def _ask_and_stop(server: ServerProcess, caller: Caller, plan: Plan, over: threading.Event, how: str) -> Seen:
    asking = asyncio.ensure_future(caller.ask(plan.body, path=OPENAI))
    assert await asyncio.to_thread(over.wait, 10)
    # Longer than a checkpoint takes.
    await asyncio.sleep(2.5)
    if how == "SIGTERM":
        server.terminate()
        await asyncio.to_thread(server.wait)
    else:
        server.kill()
    seen = await asking
    await caller.close()
    return seen


def _is_long(plan: Plan) -> bool:
    return plan.choices == 1 and "content" in plan.deltas[0][1] and len(plan.deltas) > 20
