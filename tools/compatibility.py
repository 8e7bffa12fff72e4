"""Runs every client for real and writes docs/reference/compatibility.md: python -m tools.compatibility"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reference" / "compatibility.md"
TESTS = "tests/clients/test_clients.py"
PASSED, FAILED, ABSENT = "yes", "**no**", "–"


def outcomes() -> dict[str, bool]:
    """`client-ability` → whether it passed, from a run of the tests."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", TESTS, "-k", "test_a_client_can", f"--junitxml={report}"]
        subprocess.run(command, cwd=ROOT, check=False)
        cases = ElementTree.parse(report).iter("testcase")
        found = {case.get("name", ""): case.find("failure") is None and case.find("error") is None for case in cases}
    return {name.partition("[")[2].rstrip("]"): passed for name, passed in found.items()}


def page(found: dict[str, bool]) -> str:
    """The page as it is written. `found` as from `outcomes`."""
    from tests.clients.catalog import ABILITIES, CLIENTS

    head = ["client", *ABILITIES, "version"]
    lines = [" | ".join(head), "|".join(["---"] * len(head))]
    for name, client in CLIENTS.items():
        cells = [_cell(found, name, ability, client.abilities) for ability in ABILITIES]
        lines.append(" | ".join([client.title, *cells, client.version()]))
    meanings = [f"| {ability} | {meaning} |" for ability, meaning in ABILITIES.items()]
    table = "\n".join(f"| {line} |" if "---" not in line else f"|{line}|" for line in lines)
    return (
        "<!-- Made by python -m tools.compatibility, from real runs; a test compares its shape. -->\n\n"
        "# Clients that work\n\n"
        "Each was run against a live server, with nothing changed but its base URL (`…/v1`) and key: `tests/clients/`. "
        f"`{ABSENT}` was not run: the client has no such thing, or another row shows it.\n\n"
        f"{table}\n\n| ability | what was shown |\n|---|---|\n" + "\n".join(meanings) + "\n"
    )


def _cell(found: dict[str, bool], name: str, ability: str, able: tuple[str, ...]) -> str:
    if ability not in able:
        return ABSENT
    return PASSED if found.get(f"{name}-{ability}") else FAILED


def main() -> None:
    """Run, write, and say whether all of them work."""
    argparse.ArgumentParser(description=__doc__, epilog="example: python -m tools.compatibility").parse_args()
    found = outcomes()
    PAGE.write_text(page(found), "utf-8")
    sys.exit(0 if found and all(found.values()) else 1)


if __name__ == "__main__":
    main()
