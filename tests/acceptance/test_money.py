"""Accounts are exact to the nano-dollar and nothing is held or leaked, however callers come and go."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

from tests.support.length import length
from tests.support.load import API, OPENAI, Caller, Seen, many
from tests.support.server import Account, ServerProcess
from tests.support.waiting import eventually

#: Nano-dollars a token, in and out, by model.
PRICES = {"quick": (150, 600), "paced": (2007, 8003), "gpt-4o-mini": (150, 600), "gpt-4.1": (2000, 8000)}


def body(words: int, **fields: Any) -> dict[str, Any]:
    return {"model": "quick", "messages": [{"role": "user", "content": "word " * words}], **fields}


def callers(account: Account, number: int) -> list[Caller]:
    return [Caller(account.server.port, account.key) for _ in range(number)]


def cost(model: str, seen: Seen) -> int:
    """Return usage times price, by the usage that the caller received."""
    usage = seen.usage
    assert usage is not None, seen.body[-400:]
    return usage["prompt_tokens"] * PRICES[model][0] + usage["completion_tokens"] * PRICES[model][1]


def most(asked: dict[str, Any], model: str) -> int:
    """Return the most that a response may cost: a token is at least a byte, and a message has a fixed overhead."""
    price_input, price_output = PRICES[asked.get("model", model)]
    prompt = sum(len(message["content"]) + 64 for message in asked["messages"])
    return prompt * price_input + int(asked["max_completion_tokens"]) * price_output


def check_exact(account: Account, asked: list[tuple[str, str, dict[str, Any]]], at_once: int) -> None:
    """Send all (model, path, body); the balance must fall by the sum of the reported costs."""
    before = account.money().posted

    async def ask_all() -> list[int]:
        left, costs = list(asked), []

        async def work(caller: Caller) -> None:
            while left:
                model, path, one = left.pop()
                seen = await caller.ask(one | {"model": model}, path=path)
                assert seen.done, (seen.status, seen.body[-400:])
                costs.append(cost(model, seen))
            await caller.close()

        await asyncio.gather(*(work(caller) for caller in callers(account, at_once)))
        return costs

    costs = asyncio.run(ask_all())
    assert len(costs) == len(asked)
    # Without waiting: a caller that received the end has been charged.
    assert before - account.money().posted == sum(costs)
    assert account.money().held == 0


def test_the_cost_of_200_responses_is_exact_on_the_fake_engine(fake_server: ServerProcess) -> None:
    draw = random.Random(200)
    asked = []
    for _ in range(200):
        path, stream = draw.choice([(API, True), (API, False), (OPENAI, False), (OPENAI, True)])
        fields: dict[str, Any] = {"stream": stream, "max_completion_tokens": draw.randint(1, 60)}
        if (path, stream) == (OPENAI, True):
            fields["stream_options"] = {"include_usage": True}
        asked.append((draw.choice(["quick", "paced"]), path, body(draw.randint(1, 500), **fields)))
    check_exact(fake_server.account(), asked, at_once=16)


def test_the_cost_of_200_responses_is_exact_on_the_embedded_model(llama_server: ServerProcess) -> None:
    draw = random.Random(200)
    asked = []
    for _ in range(200):
        fields = {"stream": draw.random() < 0.7, "max_completion_tokens": draw.randint(1, 5)}
        asked.append((draw.choice(["gpt-4o-mini", "gpt-4.1"]), API, body(draw.randint(1, 12), **fields)))
    check_exact(llama_server.account(), asked, at_once=8)


def check_crowd(
    server: ServerProcess, bodies: list[tuple[dict[str, Any], int | None]], at_once: int, model: str
) -> None:
    """Send all; then nothing is held or leaked, and callers that stayed were charged what was reported to them."""
    account = server.account("100")

    async def crowd(all_of_them: list[tuple[dict[str, Any], int | None]]) -> list[Seen]:
        return await many(callers(account, at_once), all_of_them)

    asyncio.run(crowd(bodies[: at_once * 2]))
    account.settled(within_s=12)
    time.sleep(1)
    files, before = server.open_files(), account.money().posted
    seen = asyncio.run(crowd(bodies))
    assert len(seen) == len(bodies)
    stayed = [one for one in seen if not one.left]
    assert [one for one in stayed if not one.done or one.status != 200][:3] == []
    # A lease is 10 s; callers that left are settled long before.
    charged = before - account.settled(within_s=12)
    certain = sum(cost(model, one) for one in stayed)
    # Callers that left pay for what was generated: at most the whole response up to their limit.
    left = [one for one, leave in bodies if leave is not None]
    assert certain <= charged <= certain + sum(most(one, model) for one in left)
    everything = server.read(
        lambda c: c.execute("SELECT sum(amount) FROM transfers WHERE kind = 'usage' AND debit = ?", (account.id,))
    )
    assert 100_000_000_000 - account.money().posted == everything[0][0]
    limit = max(one["max_completion_tokens"] for one in left)
    for one in [one for one in seen if one.left and one.name]:
        row = server.generation(one.name)
        assert one.tokens - 1 <= row["output_units"] <= limit, (row, one.tokens)
    eventually(lambda: server.open_files() <= files + 2, within_s=10)


def test_2000_requests_of_64_callers_of_which_a_tenth_disconnect_are_exact_on_the_fake_engine(
    fake_server: ServerProcess,
) -> None:
    draw = random.Random(64)
    bodies: list[tuple[dict[str, Any], int | None]] = []
    for number in range(2000):
        leave = draw.choice([0, 1, 3, 9]) if number % 10 == 0 else None
        fields: dict[str, Any] = {"max_completion_tokens": draw.randint(12, 40)} if leave is not None else {}
        bodies.append((body(draw.randint(1, 50), model="paced" if leave is not None else "quick", **fields), leave))
    check_crowd(fake_server, bodies, 64, "quick")


def test_requests_of_64_callers_of_which_a_tenth_disconnect_are_exact_on_the_embedded_model(
    llama_server: ServerProcess,
) -> None:
    draw = random.Random(64)
    bodies: list[tuple[dict[str, Any], int | None]] = []
    for number in range(length(400, 800)):
        leave = draw.choice([0, 1, 2]) if number % 10 == 0 else None
        limit = 200 if leave is not None else draw.randint(1, 4)
        bodies.append((body(draw.randint(1, 8), model="gpt-4o-mini", max_completion_tokens=limit), leave))
    check_crowd(llama_server, bodies, 64, "gpt-4o-mini")
