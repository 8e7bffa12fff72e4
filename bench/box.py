"""Compare the embedded chat model with llama.cpp's own server: the same library, file and options, in one run.

    python -m bench.box                                  the small model
    python -m bench.box --model FILE.gguf --rounds 3     another file

Both have a process of the model. Requests alternate, so that a machine whose speed varies disturbs both alike.
"""

import argparse
import http.client
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.gateways import MODEL, Place, Running
from bench.ours import Ours
from bench.procs import rss_mb_of
from minitoolai.engines.child_process import child_environment
from minitoolai.engines.fetching import SMALL_MODEL, fetchable_models, find_installed

SLOTS, CONTEXT, QUEUE, KEY = 2, 4096, 8, "bench"
_WORDS = "river mountain yellow seven computer answer quickly between garden nothing letter question".split()  # noqa: SIM905


@dataclass(frozen=True)
class Side:
    """One of the two servers."""

    name: str
    port: int
    key: str
    model: str


@dataclass
class Sample:
    """One stream: milliseconds to the first token, tokens per second after it, and tokens of the prompt."""

    first_ms: float
    tokens_per_s: float
    prompt: int
    cached: int


class Box(Ours):
    """MiniToolAI with the embedded model."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    def environment(self, place: Place) -> dict[str, str]:
        return {
            "MINITOOLAI_DATA_DIR": str(place.folder / "data"),
            "MINITOOLAI_LLAMA_MODEL": str(self._file),
            "MINITOOLAI_LLAMA_SLOTS": str(SLOTS),
            "MINITOOLAI_LLAMA_CONTEXT": str(CONTEXT),
            "MINITOOLAI_LLAMA_QUEUE": str(QUEUE),
            # The embedded model answers under the name that the other benchmarks ask for.
            "MINITOOLAI_STAND_INS": "sell",
            "MINITOOLAI_REQUESTS_PER_MINUTE": "1000000000",
        }


def main() -> int:
    """Run the comparison and print it."""
    args = _parse()
    file = args.model or find_installed(fetchable_models()[SMALL_MODEL])
    if file is None:
        print("the small model is not installed: name a file with --model", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, ExitStack() as stack:
        bare = _start_bare(file, stack)
        running = Box(file).start(Place(Path(folder), None, 0, 0))
        assert running.child is not None
        stack.callback(running.child.stop)
        sides = [bare, _side(running)]
        kinds: dict[str, Callable[[int], tuple[str, int]]] = {
            "generation": lambda number: (f"Write a long story about river number {number}.", args.tokens),
            "prompt": lambda number: (_text(number, args.prompt), 1),
            "the same prompt again": lambda number: (_text(number, args.prompt), 1),
        }
        samples: dict[tuple[str, str], list[Sample]] = {}
        # The first round warms up both, and fills their caches.
        for number in range(args.rounds + 1):
            for kind, make in kinds.items():
                for side in sides if number % 2 else reversed(sides):
                    sample = _ask(side, *make(number))
                    if number:
                        samples.setdefault((kind, side.name), []).append(sample)
            print(f"round {number} of {args.rounds}", file=sys.stderr, flush=True)
        print(_report(file, samples, kinds, rss_mb_of(running.child.pid)))
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.box", description=__doc__)
    parser.add_argument("--model", type=Path, metavar="FILE", help="GGUF file; by default the small embedded model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=96, help="tokens to generate in a stream")
    parser.add_argument("--prompt", type=int, default=1000, help="words of the long prompt, about as many tokens")
    return parser.parse_args()


def _start_bare(file: Path, stack: ExitStack) -> Side:
    """Start llama.cpp's server with the parameters that MiniToolAI gives it."""
    settings = {"path": str(file), "model": "bare", "key": KEY, "slots": SLOTS, "queue": QUEUE, "context": CONTEXT}
    child = subprocess.Popen(
        [sys.executable, "-m", "minitoolai.engines.chat.llama.server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=child_environment(),
    )
    stack.callback(child.wait)
    stack.callback(child.kill)
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(json.dumps(settings | {"threads": 0, "embeds": False, "pooling": ""}) + "\n")
    child.stdin.flush()
    return Side("llama.cpp", int(child.stdout.readline().rsplit(":", 1)[1]), KEY, "bare")


def _side(running: Running) -> Side:
    return Side("MiniToolAI", running.port, running.key, MODEL)


def _text(number: int, words: int) -> str:
    """Return a text that no other number begins like."""
    chosen = random.Random(number)
    return " ".join([f"{number}:", *(chosen.choice(_WORDS) for _ in range(words))])


def _ask(side: Side, content: str, tokens: int) -> Sample:
    body = {"model": side.model, "messages": [{"role": "user", "content": content}], "max_tokens": tokens}
    body |= {"stream": True, "stream_options": {"include_usage": True}, "temperature": 0}
    connection = http.client.HTTPConnection("127.0.0.1", side.port, timeout=600)
    started_s, first_s, last_s, usage = time.perf_counter(), 0.0, 0.0, dict[str, Any]()
    try:
        headers = {"authorization": f"Bearer {side.key}", "content-type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"{side.name}: {response.status} {response.read()[:300]!r}")
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            usage = event.get("usage") or usage
            if any(choice["delta"].get("content") or choice.get("finish_reason") for choice in event["choices"]):
                last_s = time.perf_counter()
                first_s = first_s or last_s
    finally:
        connection.close()
    rate = (usage["completion_tokens"] - 1) / (last_s - first_s) if last_s > first_s else 0.0
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return Sample((first_s - started_s) * 1000, rate, usage["prompt_tokens"], cached)


def _report(file: Path, samples: dict[tuple[str, str], list[Sample]], kinds: dict[str, Any], memory_mb: float) -> str:
    """Return the table."""
    lines = [f"{file.name}: server and model together take {memory_mb:.0f} MB", ""]
    for kind in kinds:
        bare, ours = samples[kind, "llama.cpp"], samples[kind, "MiniToolAI"]
        lines.append(f"{kind}: prompt of {bare[-1].prompt} tokens, {bare[-1].cached} and {ours[-1].cached} cached")
        first = [[sample.first_ms for sample in side] for side in (bare, ours)]
        lines.append(_line("first token", "ms", first, best=min))
        if kind == "generation":
            lines.append(
                _line(kind, "/s", [[sample.tokens_per_s for sample in side] for side in (bare, ours)], best=max)
            )
        elif kind == "prompt":
            rates = [[(one.prompt - one.cached) / one.first_ms * 1000 for one in side] for side in (bare, ours)]
            lines.append(_line("processing", "/s", rates, best=max))
    return "\n".join(lines)


def _line(name: str, unit: str, sides: list[list[float]], best: Callable[[list[float]], float]) -> str:
    """Return medians and best values of both, then the difference or the ratio of each.

    Whatever disturbs a machine makes it slower, so the best values differ by what the servers themselves cost.
    """
    cells = []
    for title, choose in (("median", statistics.median), ("best", best)):
        bare, ours = choose(sides[0]), choose(sides[1])
        compared = f"{ours - bare:+.1f} ms" if unit == "ms" else f"{ours / bare:.1%}"
        cells.append(f"{title} {bare:8.1f} and {ours:8.1f} {unit} {compared:>10}")
    return f"  {name:<12} {'   '.join(cells)}"


if __name__ == "__main__":
    sys.exit(main())
