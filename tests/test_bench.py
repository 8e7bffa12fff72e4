"""The bench runs, and says what it could not measure. Never a claim about a time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_the_floor_is_measured_without_an_error(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = bench("--gateways", "bare", "--rounds", "1", "--seconds", "0.3", "--json", str(report))
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(report.read_text())}
    assert set(rows) == {"direct", "bare"}
    assert all(row["failures"] == 0 and row["answers"] > 0 for row in rows.values()), rows
    assert "| bare ASGI proxy (the floor)" in done.stdout


def test_an_unknown_gateway_is_refused_with_the_names_known() -> None:
    done = bench("--gateways", "apache")
    assert done.returncode == 2
    assert "unknown apache; known are direct, nginx" in " ".join(done.stderr.split())
