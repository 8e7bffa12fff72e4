"""Claude Code repairs a file in print mode: python -m tests.support.claude_code KIND FOLDER

KIND is the kind of engine behind the server, or `llama` for the bundled catalog with the small embedded model, whose
context is too small. Prints what happened as one JSON object. Must run in a network namespace
of its own, which has only the loopback interface: Claude Code would otherwise try to reach its maker.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support import catalogs, claude, manners
from tests.support.programs import NODE
from tests.support.server import ServerProcess
from tests.support.upstream import Behaviour, Exchange, Upstream

MODEL = "coder"
QUESTION = "Fix sums.py so that its test passes."
#: What it may do without being asked.
ALLOWED = "Read,Edit,Bash"
READ, WRITTEN, INPUT = claude.READ, claude.WRITTEN, claude.INPUT
Calls = list[tuple[str, dict[str, str]]]


def prepare(folder: Path) -> None:
    """Write a module with a fault, and its test."""
    folder.mkdir()
    (folder / "sums.py").write_text("def add(a, b):\n    return a - b\n")
    (folder / "test_sums.py").write_text('from sums import add\n\nassert add(2, 3) == 5\nprint("it " + "passed")\n')


def calls_of(work: Path) -> Calls:
    file = str(work / "sums.py")
    return [
        ("Read", {"file_path": file}),
        ("Edit", {"file_path": file, "old_string": "a - b", "new_string": "a + b"}),
        ("Bash", {"command": "python3 test_sums.py", "description": "Run the test"}),
    ]


def native(calls: Calls) -> Behaviour:
    """Ask for one call after the other, as a server with Anthropic's API, and repeat what the last one printed."""
    told = claude.usage(30, read=READ, written=WRITTEN)

    async def behave(exchange: Exchange) -> None:
        results = [
            block
            for message in exchange.body["messages"]
            for block in (message["content"] if isinstance(message["content"], list) else ())
            if block["type"] == "tool_result"
        ]
        if len(results) < len(calls):
            name, given = calls[len(results)]
            block = {"type": "tool_use", "id": f"toolu_{len(results)}", "name": name, "input": given}
            await claude.answer({"type": "text", "text": "Next."}, block, reason="tool_use", told=told)(exchange)
        else:
            await claude.answer({"type": "text", "text": str(results[-1]["content"])}, told=told)(exchange)

    return behave


def chat(calls: Calls) -> Behaviour:
    """Do the same as a server with OpenAI's API."""

    async def behave(exchange: Exchange) -> None:
        results = [message["content"] for message in exchange.body["messages"] if message["role"] == "tool"]
        if len(results) < len(calls):
            name, given = calls[len(results)]
            function = {"name": name, "arguments": json.dumps(given)}
            call = {"index": 0, "id": f"call_{len(results)}", "type": "function", "function": function}
            delta = {"role": "assistant", "content": None, "tool_calls": [call]}
            await finish(exchange, delta, "tool_calls")
        else:
            await finish(exchange, {"role": "assistant", "content": results[-1]}, "stop")

    return behave


#: The same prompt in OpenAI's terms.
CACHED: dict[str, Any] = {
    "prompt_tokens": INPUT + READ + WRITTEN,
    "completion_tokens": 30,
    "total_tokens": INPUT + READ + WRITTEN + 30,
    "prompt_tokens_details": {"cached_tokens": READ, "audio_tokens": 0},
}


async def finish(exchange: Exchange, delta: dict[str, Any], reason: str) -> None:
    exchange.begin()
    exchange.event(manners.chunk(delta))
    exchange.event(manners.chunk({}, finish=reason))
    exchange.event({**manners.head("chat.completion.chunk"), "choices": [], "usage": CACHED})
    exchange.event("[DONE]")
    exchange.end()


def run(server: ServerProcess, key: str, work: Path, home: Path, *, model: str = MODEL, status: int = 0) -> Any:
    """Run Claude Code in `work`, and return the object that it prints. `status`: the exit status to expect."""
    home.mkdir()
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "ANTHROPIC_BASE_URL": server.url,
        "ANTHROPIC_AUTH_TOKEN": key,
        "ANTHROPIC_MODEL": model,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": model,
        "DISABLE_TELEMETRY": "1",
        "DISABLE_ERROR_REPORTING": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }
    command = [str(NODE / "node_modules" / ".bin" / "claude"), "-p", QUESTION, "--allowedTools", ALLOWED]
    done = subprocess.run(
        [*command, "--output-format", "json"],
        cwd=work, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(done.stdout)


def raise_loopback() -> None:
    """Switch the loopback interface on: in a new namespace it is off. Fails if there is another interface."""
    assert [name for _, name in socket.if_nameindex()] == ["lo"]
    set_flags, up = 0x8914, 1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, set_flags, struct.pack("16sh22x", b"lo", up))


def main(kind: str, folder: Path) -> dict[str, Any]:
    """Let Claude Code work, and return what it printed and what the books say."""
    raise_loopback()
    work = folder / "work"
    prepare(work)
    if kind == "llama":
        with ServerProcess(folder) as server:
            printed = run(server, server.account().key, work, folder / "home", model="gpt-4o-mini", status=1)
            return {"printed": printed}
    behaviour = native if kind == "anthropic" else chat
    with Upstream(behaviour(calls_of(work))) as upstream:
        catalog = (catalogs.claude if kind == "anthropic" else catalogs.upstream)(MODEL, upstream.base_url)
        with ServerProcess(folder, catalog=catalog) as server:
            account = server.account()
            printed = run(server, account.key, work, folder / "home")
            balance = account.settled()
            question = "SELECT state, input_units, cached_units, output_units FROM generations WHERE account_id = ?"
            return {
                "printed": printed,
                "file": (work / "sums.py").read_text(),
                "requests": len(upstream.seen),
                "balance": balance,
                "rows": server.read(lambda c: c.execute(question, (account.id,))),
            }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]))))
