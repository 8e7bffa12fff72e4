"""A flood of bad keys beside good ones: what attackers with unknown keys cost the customers.

Eight connections send good plain requests, alone and beside 32 connections that each send another unknown key of the
right shape. Only gateways that check keys as the bench runs them take part.
"""

import json
import subprocess
from dataclasses import asdict
from typing import Any

from bench.gateways import Gateway, Running
from bench.measure import Lab, Plan, Row, Say, lab_of, load, load_command, warm_up
from bench.report import markdown, number

GOOD, BAD = 8, 32
KEYS = 20_000


def run(gateways: list[Gateway], plan: Plan, say: Say) -> list[dict[str, Any]]:
    """Measure the good requests alone, then beside the flood."""
    with lab_of([gateway for gateway in gateways if gateway.checks_keys], plan, say) as lab:
        found = []
        for gateway, row, running in lab.up:
            say(f"bad keys: {row.title}")
            warm_up(row, running, lab.plan)
            keys = lab.folder / f"{row.name}.keys"
            keys.write_text("\n".join(gateway.bad_key(number) for number in range(KEYS)))
            alone = load(row, running, lab.plan, callers=GOOD)
            beside, refused = _beside(lab, row, running, str(keys))
            found.append(
                {"name": row.name, "title": row.title, "alone": asdict(alone), "beside": asdict(beside), **refused}
            )
        lab.check_books()
        return [one | {"books": row.books} for one, (_, row, _) in zip(found, lab.up, strict=True)]


def _beside(lab: Lab, row: Row, running: Running, keys: str) -> tuple[Any, dict[str, Any]]:
    command = load_command(running, lab.plan, "--bad-keys", keys, callers=BAD)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as flood:
        sample = load(row, running, lab.plan, callers=GOOD)
        out, err = flood.communicate(timeout=lab.plan.seconds + 60)
    if flood.returncode:
        raise RuntimeError(f"the flood of bad keys failed: {err.strip()[-300:]}")
    report = json.loads(out)
    return sample, {"refused_a_second": report["done"] / report["seconds"], "not_refused": report["errors"]}


def table(found: list[dict[str, Any]]) -> str:
    """Return the table of good requests alone and beside the flood."""
    heads = [
        "good requests",
        "p99 alone, ms",
        "p99 beside bad keys",
        "req/s alone",
        "req/s beside",
        "refused/s",
        "let through",
    ]
    lines = []
    for one in found:
        alone, beside = one["alone"], one["beside"]
        rates = [f"{sample['done'] / sample['seconds']:,.0f}" for sample in (alone, beside)]
        tails = [number(sample["whole_p99_ms"], 1) for sample in (alone, beside)]
        lines.append([one["title"], *tails, *rates, f"{one['refused_a_second']:,.0f}", str(one["not_refused"])])
    return markdown(heads, lines)
