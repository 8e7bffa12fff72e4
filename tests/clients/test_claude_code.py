"""Claude Code repairs a file in print mode, over an engine of each kind: it reads it, edits it and runs its test.

With the small embedded model, it shows why that cannot work. It runs with an empty home, without telemetry, and without
any network but the loopback interface. Ten seconds for each kind, so it is among the acceptance tests.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.claude import INPUT, READ, WRITTEN
from tests.support.programs import install_node, program

PROMPT, OUTPUT = INPUT + READ + WRITTEN, 30


@pytest.mark.acceptance
@pytest.mark.parametrize("kind", ["anthropic", "upstream"])
def test_claude_code_reads_edits_and_tests(kind: str, tmp_path: Path) -> None:
    found = run_claude_code(kind, tmp_path)
    printed = found["printed"]
    assert (printed["is_error"], printed["result"].strip()) == (False, "it passed")
    assert found["file"] == "def add(a, b):\n    return a + b\n"
    # The books show every turn, with its cached tokens.
    assert found["requests"] == 4
    assert found["rows"] == [["succeeded", PROMPT, READ, OUTPUT]] * 4
    assert found["balance"] == 5_000_000_000 - 4 * (PROMPT * 150 + OUTPUT * 600)
    assert printed["usage"]["cache_read_input_tokens"] == 4 * READ
    assert printed["usage"]["output_tokens"] == 4 * OUTPUT


@pytest.mark.acceptance
def test_claude_code_shows_that_its_first_prompt_needs_an_upstream(tmp_path: Path) -> None:
    printed = run_claude_code("llama", tmp_path)["printed"]
    assert printed["is_error"]
    assert "first prompt has about 20,000 tokens: choose a model with a larger context" in printed["result"]
    assert "MINITOOLAI" not in printed["result"]


def run_claude_code(kind: str, folder: Path) -> Any:
    """Run it over an engine of this kind, in a network namespace of its own."""
    install_node()
    alone = [program("unshare"), "--net", "--map-root-user"]
    done = subprocess.run(
        [*alone, sys.executable, "-m", "tests.support.claude_code", kind, str(folder)],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
