"""opencode repairs a file with the lines of the guide, over an engine of each kind: it reads, edits and runs a test.

It runs with an empty home and without any network but the loopback interface. Thirty seconds for each kind on a busy
machine, so it is among the acceptance tests.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.claude import INPUT, READ, WRITTEN
from tests.support.programs import install_node, program

PROMPT, OUTPUT = INPUT + READ + WRITTEN, 30


@pytest.mark.acceptance
@pytest.mark.parametrize("kind", ["anthropic", "upstream"])
def test_opencode_reads_edits_and_tests(kind: str, tmp_path: Path) -> None:
    install_node()
    alone = [program("unshare"), "--net", "--map-root-user"]
    done = subprocess.run(
        [*alone, sys.executable, "-m", "tests.support.opencode", kind, str(tmp_path)],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    parts = [event["part"] for event in found["printed"]]
    used = [(part["tool"], part["state"]["status"]) for part in parts if part["type"] == "tool"]
    assert used == [("read", "completed"), ("edit", "completed"), ("bash", "completed")]
    assert [part["text"].strip() for part in parts if part["type"] == "text"][-1] == "it passed"
    assert found["file"] == "def add(a, b):\n    return a + b\n"
    # The books and opencode itself count every turn, with its cached tokens.
    assert found["requests"] == 4
    assert found["rows"] == [["succeeded", PROMPT, READ, OUTPUT]] * 4
    assert found["balance"] == 5_000_000_000 - 4 * (PROMPT * 150 + OUTPUT * 600)
    told = [part["tokens"] for part in parts if part["type"] == "step-finish"]
    assert {(tokens["total"], tokens["cache"]["read"], tokens["output"]) for tokens in told} == {
        (PROMPT + OUTPUT, READ, OUTPUT)
    }
