"""Codex works in an empty home, with only the address and the key set: three turns, each with a call of its shell."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from minitoolai.portal.rendering.highlight import AGENT_MODEL, plain_example
from tests.support import catalogs, manners
from tests.support.programs import NODE, install_node, program
from tests.support.server import ServerProcess
from tests.support.upstream import Exchange, Upstream

MODEL = "gpt-4o-mini"
TURNS = 3


async def work(exchange: Exchange) -> None:
    """Ask for a command, and answer with what it printed."""
    messages = exchange.body["messages"]
    if messages[-1]["role"] == "tool":
        await manners.answer(["It printed: ", messages[-1]["content"]])(exchange)
        return
    arguments = json.dumps({"cmd": f"echo turn-{len(messages)}"})
    call = {"index": 0, "id": f"call_{len(messages)}", "type": "function"}
    function = {"name": "exec_command", "arguments": arguments}
    await manners.deltas(
        {"role": "assistant", "content": None, "tool_calls": [{**call, "function": function}]}, finish="tool_calls"
    )(exchange)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[ServerProcess, Upstream]]:
    with Upstream(work) as upstream:
        catalog = catalogs.upstream(MODEL.replace("-", "_"), upstream.base_url).replace(
            f'[chat."{MODEL.replace("-", "_")}"]', f'[chat."{MODEL}"]'
        )
        with ServerProcess(tmp_path, catalog=catalog) as running:
            yield running, upstream


@pytest.mark.acceptance
def test_codex_completes_three_turns_with_a_tool(server: tuple[ServerProcess, Upstream], tmp_path: Path) -> None:
    install_node()
    running, upstream = server
    account = running.account()
    home, folder = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    folder.mkdir()
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "CODEX_API_KEY": account.key}
    options = ["--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "-m", MODEL]
    options += ["-c", f'openai_base_url="{running.url}/v1"', "--json"]
    command = [program("node"), str(NODE / "node_modules" / ".bin" / "codex"), "exec"]
    for turn in range(TURNS):
        resumed = ["resume", "--last"] if turn else []
        done = subprocess.run(
            [*command, *resumed, *options, f"This is turn {turn}."],
            cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        (said,) = [item["text"] for item in items(done.stdout) if item["type"] == "agent_message"]
        assert said.startswith("It printed: ")
        assert "turn-" in said
    requests = [exchange for exchange in upstream.seen if exchange.path.endswith("/chat/completions")]
    assert len(requests) == 2 * TURNS
    roles = [message["role"] for message in requests[-1].body["messages"]]
    assert roles.count("tool") == TURNS
    rows = running.read(lambda c: c.execute("SELECT DISTINCT state FROM generations"))
    assert rows == [("succeeded",)]
    # No attempt at a WebSocket but the first of each run, and no retry.
    assert "Reconnecting" not in done.stdout + done.stderr


@pytest.mark.acceptance
def test_codex_works_with_the_lines_of_the_guide(server: tuple[ServerProcess, Upstream], tmp_path: Path) -> None:
    install_node()
    running, upstream = server
    account = running.account()
    home, folder = tmp_path / "home", tmp_path / "work"
    (home / ".codex").mkdir(parents=True)
    folder.mkdir()
    lines = plain_example("agents.codex", running.url, {AGENT_MODEL: MODEL})
    (home / ".codex" / "config.toml").write_text(lines)
    found = re.search(r'export (\w+)="sk-…"', lines)
    assert found
    env = {"PATH": os.environ["PATH"], "HOME": str(home), found[1]: account.key}
    command = [program("node"), str(NODE / "node_modules" / ".bin" / "codex"), "exec", "--skip-git-repo-check"]
    done = subprocess.run(
        [*command, "--dangerously-bypass-approvals-and-sandbox", "--json", "Run a command."],
        cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (said,) = [item["text"] for item in items(done.stdout) if item["type"] == "agent_message"]
    assert said.startswith("It printed: ")
    assert upstream.last.body["model"] == MODEL


def items(output: str) -> list[Any]:
    """Return the finished items of `codex exec --json`."""
    events = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return [event["item"] for event in events if event["type"] == "item.completed"]


@pytest.mark.acceptance
def test_codex_shows_that_its_first_prompt_needs_an_upstream(tmp_path: Path) -> None:
    install_node()
    home, folder = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    folder.mkdir()
    with ServerProcess(tmp_path) as server:
        env = {"PATH": os.environ["PATH"], "HOME": str(home), "CODEX_API_KEY": server.account().key}
        command = [program("node"), str(NODE / "node_modules" / ".bin" / "codex"), "exec", "--skip-git-repo-check"]
        done = subprocess.run(
            [*command, "-m", MODEL, "-c", f'openai_base_url="{server.url}/v1"', "--json", "Run a command."],
            cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert "first prompt has about 20,000 tokens: choose a model with a larger context" in done.stdout
