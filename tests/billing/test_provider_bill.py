"""Over a month of traffic, purchases in the books equal the providers' bill, and sales equal what customers paid.

The bill is computed here from the raw usage objects in each provider's own terms, with exact fractions, from the price
list as text. Only the usage objects and that text are shared with the code under test.
"""

from __future__ import annotations

import argparse
import math
import random
import tomllib
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from minitoolai.billing.charging import chat_bound
from minitoolai.chat.stream.decoding import read_usage
from minitoolai.cli.models import margin
from minitoolai.core.catalog.loader import parse_catalog
from minitoolai.core.clock import MS_PER_DAY, first_id_at
from minitoolai.core.models import NewGeneration, Outcome
from minitoolai.engines.chat.anthropic.response import chat_usage
from minitoolai.ledger.types import PlaceHold, Settle, Settled
from minitoolai.settings import Secret, Settings
from minitoolai.storage.tables.reports import margins_by_engine
from tests.support.books import NOON_MS, TemporaryBooks, hold, settle

REQUESTS = 5_000
#: Requests in one commit, as under load.
BATCH = 50
Json = dict[str, Any]
Units = dict[str, int]
#: Model → its purchase prices in dollars per million tokens. Sold at 1.3 times the price, rounded to cents.
PRICES = {
    "claude": """
input = "3"
output = "15"
cached_input = "0.30"
cache_write = "3.75"
cache_write_1h = "6"
[[{tiers}]]
above = 200_000
input = "6"
output = "22.50"
cached_input = "0.60"
cache_write = "7.50"
cache_write_1h = "12"
""",
    "gpt": """
input = "2.50"
output = "10"
cached_input = "1.25"
reasoning = "12"
audio_input = "40"
audio_output = "80"
""",
    "gemini": """
input = "1.25"
output = "10"
cached_input = "0.125"
[[{tiers}]]
above = 200_000
input = "2.50"
output = "15"
cached_input = "0.25"
""",
    "deepseek": """
input = "0.0825"
output = "0.275"
cached_input = "0.0375"
request = "0.000123457"
""",
}
HEADS = {"claude": ("anthropic", "up_claude")} | {
    name: ("upstream", f"up_{name}") for name in ("gpt", "gemini", "deepseek")
}


def dearer(text: str) -> str:
    """Return the prices at 1.3 times as much, with six decimals."""
    lines = []
    for line in text.splitlines():
        key, _, value = line.partition(" = ")
        lines.append(f'{key} = "{float(value.strip(chr(34))) * 1.3:.6f}"' if value.startswith('"') else line)
    return "\n".join(lines)


def catalog() -> str:
    text = ""
    for model, prices in PRICES.items():
        kind, engine = HEADS[model]
        text += f'[engines.{engine}]\nkind = "{kind}"\nbase_url = "http://127.0.0.1:9/v1"\n'
        text += f"[engines.{engine}.costs.{model}]" + prices.format(tiers=f"engines.{engine}.costs.{model}.tiers")
        sold, _, tiers = dearer(prices.format(tiers=f"chat.{model}.tiers")).partition("[[")
        text += f'[chat.{model}]\ncontext = 2_000_000\nmax_output = 64_000\nengines = ["{engine}"]\n{sold}\n'
        text += f"[[{tiers}\n" if tiers else ""
    return text


# ── the providers: a usage object, and what it says in their own terms ────────────────────────────────────────────


def claude(dice: random.Random) -> tuple[Json, Units, int]:
    """`input_tokens` leaves out what a cache holds. The tier is that of all three together."""
    fresh, read, short, hourly = (dice.choice((0, dice.randrange(120_000))) for _ in range(4))
    output = dice.randrange(1, 64_000)
    usage = {
        "input_tokens": fresh + 1,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": short + hourly,
        "cache_creation": {"ephemeral_5m_input_tokens": short, "ephemeral_1h_input_tokens": hourly},
        "output_tokens": output,
    }
    units = {"input": fresh + 1, "cached_input": read, "cache_write": short, "cache_write_1h": hourly, "output": output}
    return usage, units, fresh + 1 + read + short + hourly


def gpt(dice: random.Random) -> tuple[Json, Units, int]:
    """`prompt_tokens` includes the cached and the audio tokens, `completion_tokens` reasoning and audio."""
    text, cached, audio = dice.randrange(1, 90_000), dice.choice((0, dice.randrange(30_000))), dice.choice((0, 700))
    said, thought, spoken = dice.randrange(1, 9_000), dice.choice((0, dice.randrange(20_000))), dice.choice((0, 300))
    usage = {
        "prompt_tokens": text + cached + audio,
        "completion_tokens": said + thought + spoken,
        "total_tokens": text + cached + audio + said + thought + spoken,
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": audio},
        "completion_tokens_details": {"reasoning_tokens": thought, "audio_tokens": spoken},
    }
    units = {"input": text, "cached_input": cached, "audio_input": audio}
    units |= {"output": said, "reasoning": thought, "audio_output": spoken}
    return usage, units, text + cached + audio


def gemini(dice: random.Random) -> tuple[Json, Units, int]:
    """`promptTokenCount` includes the cached tokens; thoughts come beside the candidates, at the same price."""
    prompt = dice.choice((dice.randrange(1, 9_000), dice.randrange(150_000, 900_000), 200_000, 200_001))
    cached = dice.choice((0, dice.randrange(prompt)))
    said, thought = dice.randrange(1, 30_000), dice.choice((0, dice.randrange(30_000)))
    usage = {
        "promptTokenCount": prompt,
        "cachedContentTokenCount": cached,
        "candidatesTokenCount": said,
        "thoughtsTokenCount": thought,
        "totalTokenCount": prompt + said + thought,
    }
    return usage, {"input": prompt - cached, "cached_input": cached, "output": said + thought}, prompt


def deepseek(dice: random.Random) -> tuple[Json, Units, int]:
    """The prompt is the sum of hits and misses; each request has a fee."""
    hit, miss, output = dice.choice((0, dice.randrange(60_000))), dice.randrange(1, 60_000), dice.randrange(1, 8_000)
    usage = {
        "prompt_tokens": hit + miss,
        "completion_tokens": output,
        "total_tokens": hit + miss + output,
        "prompt_cache_hit_tokens": hit,
        "prompt_cache_miss_tokens": miss,
    }
    return usage, {"input": miss, "cached_input": hit, "output": output, "request": 1}, hit + miss


PROVIDERS = {"claude": claude, "gpt": gpt, "gemini": gemini, "deepseek": deepseek}


def price(listed: Json, units: Units, prompt: int) -> Fraction:
    """Return the exact price in dollars by a price list as it is written in the catalog."""
    for tier in listed.get("tiers", ()):
        if prompt > tier["above"]:
            listed = listed | tier
    total = Fraction(0)
    for bucket, count in units.items():
        each = Fraction(listed.get(bucket) or listed["output" if bucket in ("reasoning", "audio_output") else "input"])
        total += count * (each if bucket == "request" else each / 10**6)
    return total


# ── the month ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_month_of_purchases_is_the_providers_bill_and_sales_are_what_customers_paid(
    books: TemporaryBooks, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dice, text = random.Random(12), catalog()
    ours, lists = parse_catalog(text), tomllib.loads(text)
    credit = 900_000_000_000_000
    accounts = [books.account(credit) for _ in range(3)]
    bill: Counter[str] = Counter()
    bills = dict.fromkeys(PROVIDERS, Fraction(0))
    sold = dict.fromkeys(PROVIDERS, 0)
    batch: list[tuple[PlaceHold, Settle]] = []
    charged, times = 0, sorted(dice.randrange(30 * MS_PER_DAY) for _ in range(REQUESTS))
    for number, after_ms in enumerate(times):
        name = dice.choice([*PROVIDERS])
        raw, units, prompt = PROVIDERS[name](dice)
        _, engine = HEADS[name]
        bills[name] += price(lists["engines"][engine]["costs"][name], units, prompt)
        sold[name] += math.ceil(price(lists["chat"][name], units, prompt) * 10**9)
        bill[name] += 1
        # The code under test: usage → buckets → cost, hold and settle.
        usage = read_usage(chat_usage(raw) if name == "claude" else raw)
        assert usage is not None
        model, began_ms = ours.chat[name], NOON_MS + after_ms
        cost, split = model.prices.charge(usage)
        bound = chat_bound(model, prompt_tokens=prompt, limit=64_000, choices=1)
        hold_id, account = first_id_at(began_ms) + number, dice.choice(accounts)
        generation = NewGeneration("chat", name, engine, model.prices.input_nano, model.prices.output_nano)
        held = hold(hold_id, account, bound.base + bound.unit * bound.units, generation=generation, now_ms=began_ms)
        outcome = Outcome(
            "succeeded",
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.cached_tokens,
            upstream_cost=ours.upstream_costs[engine, name].cost(usage),
            price_split=split,
        )
        batch.append((held, settle(hold_id, account, cost, outcome)))
        if len(batch) == BATCH:
            books.apply(*(placed for placed, _ in batch))
            for settled in books.apply(*(ended for _, ended in batch)):
                assert isinstance(settled, Settled)
                assert settled.shortfall == 0
                charged += settled.cost
            batch.clear()
    assert not batch
    # Bought: each request is rounded up to a nano-dollar, which a month of them does not turn into a cent.
    rows = {row.model: row for row in books.database.read(margins_by_engine, 0)}
    for name, exact in bills.items():
        assert 0 <= Fraction(rows[name].upstream_cost, 10**9) - exact < Fraction(bill[name], 10**9)
        assert cents(Fraction(rows[name].upstream_cost, 10**9)) == cents(exact)
        assert (rows[name].requests, rows[name].sold) == (bill[name], sold[name])
        assert rows[name].sold_with_known_cost == sold[name]
    # Sold: the same to the nano-dollar by generations, balances, transfers and days.
    assert charged == sum(sold.values())
    assert sum(credit - books.money(account).posted for account in accounts) == charged
    for query in ("SELECT sum(cost) FROM generations", "SELECT sum(cost) FROM usage_days"):
        assert int(books.rows(query)[0][0]) == charged
    assert int(books.rows("SELECT sum(purchase) FROM usage_days")[0][0]) == sum(
        row.upstream_cost for row in rows.values()
    )
    # The command prints the same.
    is_file = books.database.name == "sqlite"
    if is_file:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "minitoolai.db").symlink_to(books.path)
    settings = Settings(data_dir=tmp_path / "data", database_url=Secret("" if is_file else books.url))
    margin(settings, argparse.Namespace(days=90))
    (last,) = (line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("all "))
    requests, revenue, bought, earned = last[1:5]
    exact = sum(bills.values())
    assert (int(requests), Fraction(revenue)) == (REQUESTS, Fraction(charged, 10**9))
    assert cents(Fraction(bought)) == cents(exact)
    assert cents(Fraction(earned)) == cents(Fraction(charged, 10**9) - exact)
    assert books.broken() == {}


def cents(dollars: Fraction) -> int:
    return round(dollars * 100)
