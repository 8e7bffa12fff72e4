"""Run the programs of docs/examples unchanged, with the real interpreters."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import manners
from tests.support.programs import program as installed
from tests.support.server import PROGRAM, Account, ServerProcess
from tests.support.upstream import Upstream

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
PROGRAMS = {"chat.py": sys.executable, "chat.php": "php"}


def run(program: str, account: Account, key: str = "") -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "MINITOOLAI_URL": account.server.url, "MINITOOLAI_KEY": key or account.key}
    command = [installed(PROGRAMS[program]), str(EXAMPLES / program)]
    return subprocess.run(command, env=env, capture_output=True, encoding="utf-8", timeout=120, check=False)


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_example_prints_the_text_and_its_tokens(program: str, account: Account, upstream: Upstream) -> None:
    upstream.behave = manners.answer(["Ätna, ", "雪 ", "🌋"])
    done = run(program, account)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Ätna, 雪 🌋\n")
    assert done.stdout.endswith(f"{manners.PROMPT_TOKENS + 3} tokens\n")
    assert upstream.last.body["max_completion_tokens"] == 60


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_example_prints_why_it_was_refused(program: str, account: Account) -> None:
    done = run(program, account, key="sk-mt-wrong")
    assert done.returncode == 1
    assert "Invalid API key" in done.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_example_prints_an_error_in_the_middle_of_a_stream(
    program: str, account: Account, upstream: Upstream
) -> None:
    upstream.behave = manners.break_off("error", ["half "])
    done = run(program, account)
    assert done.returncode == 1
    assert done.stdout == "half "
    assert "reported an error" in done.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_example_works_with_the_embedded_model(program: str, llama_server: ServerProcess) -> None:
    account = llama_server.account()
    done = run(program, account)
    assert (done.returncode, done.stderr) == (0, "")
    words, _, tokens = done.stdout.rpartition("\n ")
    assert len(words.split()) >= 2
    assert tokens.endswith(" tokens\n")
    assert account.settled() < 5_000_000_000


def test_the_variables_of_the_examples_do_not_disturb_the_command_line(account: Account) -> None:
    env = {**account.server.env, "MINITOOLAI_URL": account.server.url, "MINITOOLAI_KEY": account.key}
    command = [*PROGRAM, "balance", account.email, "--data-dir", str(account.server.data_dir)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
