"""Command line of `make bench`."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from shutil import which
from typing import Any

from bench import gateways, measure, ours, proxies, raw
from bench.gateways import Gateway
from bench.measure import Plan, Row
from bench.report import comparison, table
from bench.sections import keys, memory, mixed, prompts, streams, tails

ALL: dict[str, Gateway] = {
    gateway.name: gateway
    for gateway in (
        gateways.Direct(),
        proxies.Nginx(),
        proxies.HAProxy(),
        proxies.Caddy(),
        gateways.Smg(),
        gateways.TensorZero(),
        gateways.Bare(),
        ours.Ours(),
        ours.OursLean(),
        ours.OursWithPlan(),
        gateways.LiteLLM(),
    )
}
#: The sections beside the table, and which of the chosen gateways each of them measures.
SECTIONS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "tails": (tails, ("direct", "nginx", "smg", "tensorzero", "bare", "minitoolai", "litellm")),
    "streams": (streams, ("direct", "nginx", "smg", "tensorzero", "minitoolai", "litellm")),
    "memory": (memory, ("nginx", "smg", "tensorzero", "minitoolai", "litellm")),
    "prompts": (prompts, ("direct", "nginx", "smg", "tensorzero", "minitoolai", "litellm")),
    "keys": (keys, ("minitoolai", "litellm")),
    "mixed": (mixed, ("minitoolai",)),
}
NAMES = ("table", *SECTIONS)
#: An account with a plan costs about as much as one without, so it is measured on request only.
BY_DEFAULT = [name for name in ALL if name != ours.OursWithPlan.name]

_DESCRIPTION = """Compare MiniToolAI with its peers, in one run. A mock upstream responds to plain requests immediately
and streams 50 tokens, 5 ms apart; CPU is that of each gateway's whole process tree divided by the responses it gave.
Absolute figures depend on the machine; compare the ratios. Missing peers are listed; `make bench-peers` installs them.

sections:
  table    CPU, first token and memory of every gateway (about six minutes; five with --seconds 2)
  tails    plain requests a second while the 99th percentile is within 1, 5, 10, 50 and 100 ms (two minutes)
  streams  how many streams at once arrive whole and without stalls (four minutes)
  memory   idle, with 400 streams, and after them (one and a half minutes)
  prompts  prompts of 100,000 tokens (one and a half minutes)
  keys     good keys beside a flood of bad ones (half a minute)
  mixed    chat beside usage reports, exports, images and speech (half a minute)
`all` stands for all of them: a quarter of an hour."""
_EXAMPLES = """examples:
  python -m bench                                     the table
  python -m bench --sections all --into docs/benchmarks/2026-12-01.json
  python -m bench --sections tails,keys --gateways smg,minitoolai
  python -m bench --gateways smg,minitoolai --rounds 5
  python -m bench --gateways minitoolai,minitoolai-lean --rounds 10 --against ../old/.venv/bin/minitoolai
  python -m bench --seconds 1 --rounds 1 --json out.json
Draw the charts and write the document from a raw file:
  python -m bench.charts FILE.json
  python -m bench.document FILE.json
"""


def main() -> int:
    """Run the bench and print the tables."""
    args = _parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the children are stopped, as on Ctrl-C
    chosen = [ALL[name] for name in args.gateways]
    if args.against:
        pairs = {ours.Ours.name: ours.Other, ours.OursLean.name: ours.OtherLean}
        chosen += [pairs[name](args.against) for name in args.gateways if name in pairs]
    gateway_cores, load_cores = _cores(pin=not args.no_pin)
    plan = Plan(args.rounds, args.seconds, args.callers, args.streams, gateway_cores, load_cores)
    results = raw.new(chosen)
    if args.into:
        try:
            results = raw.continued(args.into, results)
        except raw.Different as error:
            raw.say(f"{error}; choose another file")
            return 1
    for name in args.sections:
        began_s = time.monotonic()
        found, text = _section(name, chosen, plan)
        print(text if name == args.sections[0] else f"\n{text}", flush=True)
        raw.add(results, name, found, _as_json(plan), time.monotonic() - began_s)
        for path in filter(None, (args.into, args.json)):
            raw.write(path, results)
    return 0


def _section(name: str, chosen: list[Gateway], plan: Plan) -> tuple[Any, str]:
    """Run one section. Return its raw results and its table."""
    if name == "table":
        rows: list[Row] = measure.run(chosen, plan, raw.say)
        return [row.as_json() for row in rows], "\n".join(filter(None, (table(rows), comparison(rows))))
    module, covered = SECTIONS[name]
    found = module.run([gateway for gateway in chosen if gateway.name in covered], plan, raw.say)
    show: Callable[[Any], str] = module.table
    return found, show(found)


def _as_json(plan: Plan) -> dict[str, Any]:
    fields = {name: sorted(value) if isinstance(value, set) else value for name, value in asdict(plan).items()}
    return {name: value for name, value in fields.items() if name != "mock_pid"}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    known = ", ".join(ALL)
    parser.add_argument("--gateways", type=_names, default=BY_DEFAULT, help=f"some of {known}; all but one by default")
    parser.add_argument(
        "--sections", type=_sections, default=["table"], help=f"some of {', '.join(NAMES)}, or all; table by default"
    )
    parser.add_argument(
        "--against", type=Path, metavar="PROGRAM", help="another installation's `minitoolai`, to compare CPU with"
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds, interleaved; tables show their medians")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each measurement")
    parser.add_argument("--callers", type=int, default=32, help="connections with plain requests")
    parser.add_argument("--streams", type=int, default=48, help="concurrent streams")
    parser.add_argument("--no-pin", action="store_true", help="do not pin processes to cores")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw results to this file")
    parser.add_argument("--into", type=Path, metavar="FILE", help="add the raw results to this file, or begin it")
    return parser.parse_args()


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := [name for name in names if name not in ALL]:
        raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown)}; known are {', '.join(ALL)}")
    return ["direct", *[name for name in names if name != "direct"]]


def _sections(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if names == ["all"]:
        return list(NAMES)
    if unknown := [name for name in names if name not in NAMES]:
        raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown)}; known are {', '.join(NAMES)} and all")
    return names


def _cores(*, pin: bool) -> tuple[set[int] | None, set[int] | None]:
    """Return the gateway's core, and the cores of mock and load."""
    mine = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if not pin or len(mine) < 2 or not which("taskset"):
        return None, None
    return {mine[0]}, set(mine[1:])


if __name__ == "__main__":
    sys.exit(main())
