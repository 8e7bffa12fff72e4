"""The bench runs and reports what it could not measure. No test here is about a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.programs import packages_of_the_gpu_engine

ROOT = Path(__file__).parents[1]


def bench(*arguments: str, module: str = "bench", timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *arguments]
    # One thread: on a busy machine several threads would wait for each other.
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout_s, check=False)


def test_the_bare_proxy_is_measured_without_an_error(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = bench("--gateways", "bare", "--rounds", "1", "--seconds", "0.3", "--json", str(report))
    assert done.returncode == 0, done.stderr
    raw = json.loads(report.read_text())
    rows = {row["name"]: row for row in raw["sections"]["table"]["results"]}
    assert set(rows) == {"direct", "bare"}
    assert all(row["failures"] == 0 and row["answers"] > 0 for row in rows.values()), rows
    assert "| bare ASGI proxy (the floor)" in done.stdout
    assert raw["versions"]["python"].startswith("3.")
    assert raw["machine"]["cores"] >= 1


def test_two_installations_are_compared_round_by_round() -> None:
    program = Path(sys.executable).parent / "minitoolai"
    done = bench("--gateways", "minitoolai", "--rounds", "1", "--seconds", "0.3", "--against", str(program))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    at = lines.index("CPU divided by the other installation's:")
    assert [line.split(":")[0] for line in lines[at + 1 :]] == ["minitoolai, plain", "minitoolai, stream"]
    assert done.stdout.count("| exact ") == 2, done.stdout


def test_an_unknown_gateway_is_refused_with_the_known_names() -> None:
    done = bench("--gateways", "apache")
    assert done.returncode == 2
    assert "unknown apache; known are direct, nginx" in " ".join(done.stderr.split())


@pytest.mark.acceptance
def test_the_gpu_bench_runs_without_a_gpu_at_a_tiny_shape() -> None:
    packages_of_the_gpu_engine()
    tiny = ("--shape", "tiny", "--device", "cpu", "--size", "64", "--rounds", "1", "--steps", "2", "--images", "1,3")
    done = bench(*tiny, module="bench.images")
    assert (done.returncode, done.stderr) == (0, "")
    assert "| 3 |" in done.stdout
    assert "3 of different schedulers: " in done.stdout


@pytest.mark.acceptance
def test_growth_is_measured_on_books_that_pass_the_audit() -> None:
    done = bench("--generations", "20000", module="bench.growth")
    assert done.returncode == 0, done.stderr
    assert "| audit of each minute, ms |" in done.stdout
    assert "| plain request, ms of a client |" in done.stdout
