"""Command line of `make bench`."""

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from shutil import which

from bench import gateways, ours
from bench.measure import Plan, run
from bench.report import comparison, table

ALL: dict[str, gateways.Gateway] = {
    gateway.name: gateway
    for gateway in (
        gateways.Direct(),
        gateways.Nginx(),
        gateways.Smg(),
        gateways.Bare(),
        ours.Ours(),
        ours.OursLean(),
        ours.OursWithPlan(),
        gateways.Portkey(),
        gateways.LiteLLM(),
    )
}

_DESCRIPTION = """Compare MiniToolAI with its peers, in one run and one table. A mock upstream responds to plain
requests immediately and streams 50 tokens, 5 ms apart; CPU is that of each gateway's whole process tree divided by the
responses it gave. Absolute figures depend on the machine; compare the ratios. Missing peers are listed;
`make bench-peers` installs them."""
_EXAMPLES = """examples:
  python -m bench                                     every gateway, about four minutes
  python -m bench --gateways smg,minitoolai --rounds 5
  python -m bench --gateways minitoolai,minitoolai-lean --rounds 10 --against ../old/.venv/bin/minitoolai
  python -m bench --seconds 1 --rounds 1 --json out.json
"""


def main() -> int:
    """Run the bench and print the table."""
    args = _parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the children are stopped, as on Ctrl-C
    chosen = [ALL[name] for name in args.gateways]
    if args.against:
        pairs = {ours.Ours.name: ours.Other, ours.OursLean.name: ours.OtherLean}
        chosen += [pairs[name](args.against) for name in args.gateways if name in pairs]
    gateway_cores, load_cores = _cores(pin=not args.no_pin)
    plan = Plan(args.rounds, args.seconds, args.callers, args.streams, gateway_cores, load_cores)
    rows = run(chosen, plan, lambda line: print(line, file=sys.stderr, flush=True))
    print(table(rows))
    print(comparison(rows))
    if args.json:
        args.json.write_text(json.dumps([row.as_json() for row in rows], indent=1))
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--gateways", type=_names, default=list(ALL), help=f"some of {','.join(ALL)}; all by default")
    parser.add_argument(
        "--against", type=Path, metavar="PROGRAM", help="another installation's `minitoolai`, to compare CPU with"
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds, interleaved; the table shows their medians")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each measurement")
    parser.add_argument("--callers", type=int, default=32, help="connections with plain requests")
    parser.add_argument("--streams", type=int, default=48, help="concurrent streams")
    parser.add_argument("--no-pin", action="store_true", help="do not pin processes to cores")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample of every round to this file")
    return parser.parse_args()


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := [name for name in names if name not in ALL]:
        raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown)}; known are {', '.join(ALL)}")
    return ["direct", *[name for name in names if name != "direct"]]


def _cores(*, pin: bool) -> tuple[set[int] | None, set[int] | None]:
    """Return the gateway's core, and the cores of mock and load."""
    mine = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if not pin or len(mine) < 2 or not which("taskset"):
        return None, None
    return {mine[0]}, set(mine[1:])


if __name__ == "__main__":
    sys.exit(main())
