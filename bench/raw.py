"""Raw results of the bench as JSON: what was measured, with which versions, on which machine, and when.

A file can be completed section by section (`--into`), as long as versions and machine stay the same.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.gateways import Gateway

FORMAT = 1
_ROOT = Path(__file__).parent.parent


class Different(Exception):
    """Results cannot be added to the file, which is from another machine or other versions."""


def machine() -> dict[str, Any]:
    """Return the CPU's model, the number of cores, memory and kernel."""
    cpu = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = [int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")]
    return {
        "cpu": cpu[0] if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(memory[0] / 1e6) if memory else None,
        "system": platform.system(),
        "kernel": platform.release().partition("-")[0],
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def versions(gateways: Iterable[Gateway]) -> dict[str, str]:
    """Return the versions of Python and of every installed gateway."""
    found = {"python": platform.python_version()}
    for gateway in gateways:
        if gateway.missing() is None and (version := gateway.version()):
            found[gateway.name] = version
    return found


def _commit() -> str:
    """Return the short commit, with + if files were changed since. Nothing outside a repository."""
    try:
        head, changes = (
            subprocess.run(["git", *words], cwd=_ROOT, capture_output=True, text=True, check=True).stdout.strip()
            for words in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "--", "src", "bench"))
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head + ("+" if changes else "")


def new(gateways: Iterable[Gateway]) -> dict[str, Any]:
    """Return a file without results."""
    return {
        "format": FORMAT,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "versions": versions(gateways),
        "sections": {},
    }


def add(raw: dict[str, Any], name: str, results: Any, plan: dict[str, Any], took_s: float) -> None:
    """Add or replace the results of one section."""
    load_1m = os.getloadavg()[0]
    raw["sections"][name] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "took_s": round(took_s),
        "commit": _commit(),
        "load_average": round(load_1m, 2),
        "plan": plan,
        "results": results,
    }


def read(path: Path) -> dict[str, Any]:
    """Return the content of a raw file."""
    raw: dict[str, Any] = json.loads(path.read_text("utf-8"))
    if raw.get("format") != FORMAT:
        raise Different(f"{path} is not a raw file of this bench (format {FORMAT})")
    return raw


def continued(path: Path, fresh: dict[str, Any]) -> dict[str, Any]:
    """Return the file to complete, or `fresh` if there is none yet."""
    if not path.exists():
        return fresh
    raw = read(path)
    if raw["machine"] != fresh["machine"]:
        raise Different(f"{path} was measured on another machine")
    shared = raw["versions"].keys() & fresh["versions"].keys()
    if changed := [name for name in shared if raw["versions"][name] != fresh["versions"][name]]:
        raise Different(f"{path} was measured with other versions of {', '.join(sorted(changed))}")
    raw["versions"] |= fresh["versions"]
    return raw


def write(path: Path, raw: dict[str, Any]) -> None:
    """Write the file. Numbers are rounded to what they mean, so that a file stays small."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_rounded(raw), indent=1, ensure_ascii=False) + "\n", "utf-8")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list) else value


def say(text: str) -> None:
    """Report progress on stderr."""
    print(text, file=sys.stderr, flush=True)
