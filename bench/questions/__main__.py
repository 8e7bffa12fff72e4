"""Ask the embedded chat models 100 questions of our own, and print one table."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import openai
from tests.support.server import ServerProcess

from bench.questions.code_tasks import TASKS
from bench.questions.knowledge import KNOWLEDGE
from bench.questions.pairs import PAIRS, first_ranked
from bench.questions.structured import JSON_TASKS, TOOL_TASKS, TOOLS
from minitoolai.cli.fetch import EMBEDDING_MODEL, LARGE_MODEL
from minitoolai.engines.fetching import fetch, fetchable_models

MODEL, EMBEDDINGS = "gpt-4o-mini", "text-embedding-3-small"
CONCURRENT = 4


class Result(NamedTuple):
    """A question, and the verdict on its answer: valid or not, right or not."""

    kind: str
    text: str
    answer: str
    is_valid: bool
    is_right: bool


Asked = Callable[[openai.OpenAI], Result]


def main() -> int:
    """Ask and print. Exit status 1 if the large model misses what docs/howto/models.md promises."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models-dir", type=Path, help="folder of the large model; it is fetched if it is not there")
    parser.add_argument("--only", help="models to ask: small or large", choices=("small", "large"))
    parser.add_argument("--kind", help="ask only the questions of this kind")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--verbose", action="store_true", help="print every wrong answer")
    args = parser.parse_args()
    asked = [(kind, ask) for kind, ask in questions() if args.kind in (None, kind)]
    sizes = [args.only] if args.only else ["small", "large"]
    tables: dict[str, list[Result]] = {}
    with tempfile.TemporaryDirectory() as folder:
        models_dir = args.models_dir or Path(folder) / "models"
        if not args.only and args.kind in (None, "pairs"):
            fetch(fetchable_models()[EMBEDDING_MODEL], models_dir)
            pairs = rank_pairs(Path(folder) / "pairs", models_dir, args.port)
            say(f"pairs: the right partner ranked first for {sum(pairs.values())} of 100: {pairs}")
        if args.kind == "pairs":
            return 0
        for size in sizes:
            if size == "large":
                fetch(fetchable_models()[LARGE_MODEL], models_dir)
            started_s = time.monotonic()
            tables[size] = ask_all(Path(folder) / size, models_dir if size == "large" else None, asked, args.port)
            say(f"{size}: {len(asked)} questions in {time.monotonic() - started_s:.0f} s")
    if args.verbose:
        for size, results in tables.items():
            for result in results:
                if not result.is_right:
                    say(f"{size} {result.kind} | {result.text} | {result.answer!r}")
    say(table(tables))
    missed = promises_missed(tables["large"]) if "large" in tables and not args.kind else []
    for line in missed:
        say(f"MISSED {line}")
    return bool(missed)


def questions() -> list[tuple[str, Asked]]:
    """Return all questions by kind."""
    found: list[tuple[str, Asked]] = []
    found += [
        (question.kind, lambda client, q=question: _text(client, q.kind, q.text, q.is_right, 80))
        for question in KNOWLEDGE
    ]
    found += [("code", lambda client, t=task: _text(client, "code", t.prompt, t.is_right, 300)) for task in TASKS]
    found += [("json", lambda client, t=task: _json(client, t)) for task in JSON_TASKS]
    found += [("tools", lambda client, t=task: _tool(client, t)) for task in TOOL_TASKS]
    return found


def ask_all(folder: Path, models_dir: Path | None, asked: list[tuple[str, Asked]], port: int) -> list[Result]:
    """Start a server with the model and ask it every question."""
    folder.mkdir()
    env = {"MINITOOLAI_MODELS_DIR": str(models_dir or folder / "none")}
    server = ServerProcess(folder, env=env)
    server.port = port
    with server:
        account = server.account()
        client = openai.OpenAI(base_url=server.url + "/v1", api_key=account.key, max_retries=2, timeout=600)
        with client, ThreadPoolExecutor(CONCURRENT) as pool:
            return list(pool.map(lambda ask: ask(client), [ask for _, ask in asked]))


def rank_pairs(folder: Path, models_dir: Path, port: int) -> dict[str, int]:
    """Return by language for how many sentences the embedding model ranks the partner first, among all 100."""
    folder.mkdir()
    server = ServerProcess(folder, env={"MINITOOLAI_MODELS_DIR": str(models_dir)})
    server.port = port
    languages = [language for language, pairs in PAIRS.items() for _ in pairs]
    with server:
        account = server.account()
        with openai.OpenAI(base_url=server.url + "/v1", api_key=account.key, timeout=600) as client:
            sides = [
                [item.embedding for item in client.embeddings.create(model=EMBEDDINGS, input=[*texts]).data]
                for texts in zip(*(pair for pairs in PAIRS.values() for pair in pairs), strict=True)
            ]
    firsts = list(zip(languages, first_ranked(*sides), strict=True))
    return {language: firsts.count((language, True)) for language in PAIRS}


def _ask(client: openai.OpenAI, text: str, limit: int, **fields: Any) -> Any:
    messages: Any = [{"role": "user", "content": text}]
    return (
        client.chat.completions.create(
            model=MODEL, messages=messages, max_tokens=limit, temperature=0, seed=1, **fields
        )
        .choices[0]
        .message
    )


def _text(client: openai.OpenAI, kind: str, text: str, is_right: Callable[[str], bool], limit: int) -> Result:
    answer = _ask(client, text, limit).content or ""
    return Result(kind, text, answer, is_valid=True, is_right=is_right(answer))


def _json(client: openai.OpenAI, task: Any) -> Result:
    answer = _ask(client, task.text, 120, response_format=task.response_format).content or ""
    return Result("json", task.text, answer, task.is_valid(answer), task.is_right(answer))


def _tool(client: openai.OpenAI, task: Any) -> Result:
    message = _ask(client, task.text, 120, tools=TOOLS)
    calls = [(call.function.name, call.function.arguments) for call in message.tool_calls or []]
    return Result("tools", task.text, str(calls or message.content), task.is_valid(message), task.is_right(message))


def table(tables: dict[str, list[Result]]) -> str:
    """Return the results as a table in Markdown: right answers by kind, and valid ones of JSON and tools."""
    kinds = list(dict.fromkeys(result.kind for results in tables.values() for result in results))
    lines = [f"| questions | {' | '.join(tables)} |", f"|---|{'---|' * len(tables)}"]
    for kind in kinds:
        cells = [_share([r for r in results if r.kind == kind]) for results in tables.values()]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    for kind in ("json", "tools"):
        if kind in kinds:
            cells = [_share([r for r in results if r.kind == kind], "is_valid") for results in tables.values()]
            lines.append(f"| {kind}: valid | {' | '.join(cells)} |")
    lines.append(f"| all | {' | '.join(_share(results) for results in tables.values())} |")
    return "\n".join(lines)


def _share(results: list[Result], field: str = "is_right") -> str:
    return f"{sum(getattr(result, field) for result in results)} of {len(results)}"


def promises_missed(results: list[Result]) -> list[str]:
    """Return what the large model should reach and did not."""

    def right(kind: str) -> int:
        return sum(result.is_right for result in results if result.kind == kind)

    total = sum(result.is_right for result in results)
    missed = [f"{total} of {len(results)} right, not 70 %"] if total < 0.7 * len(results) else []
    missed += [f"not valid: {result.text}" for result in results if not result.is_valid]
    missed += [f"{right('tools')} right tools, not 18"] if right("tools") < 18 else []
    missed += [f"{right('code')} code tasks, not 12"] if right("code") < 12 else []
    return missed


def say(line: str) -> None:
    """Print a line."""
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
