"""Print a software bill of materials (CycloneDX 1.6, JSON) of what `make install` installs.

    .venv/bin/python -m tools.sbom > sbom.cdx.json

It is made from the pinned requirements alone, so that the same commit gives the same bytes: each package has its
version, its package URL, and the SHA-256 hashes of the files that pip accepts for it.
"""

from __future__ import annotations

import json
import re
import sys
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from minitoolai import __version__

ROOT = Path(__file__).parent.parent
FILES = ("requirements.txt", "requirements-otel.txt")
PINNED = re.compile(r"^([A-Za-z0-9][\w.-]*)(?:\[[^]]*\])?==([^\s;\\]+)")
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def packages(lines: Iterable[str]) -> Iterator[tuple[str, str, list[str]]]:
    """Yield name, version and hashes of each pinned package."""
    name, version, hashes = "", "", list[str]()
    for line in lines:
        if pinned := PINNED.match(line):
            if name:
                yield name, version, hashes
            name, version, hashes = re.sub(r"[-_.]+", "-", pinned[1]).lower(), pinned[2], []
        hashes += HASH.findall(line)
    if name:
        yield name, version, hashes


def bill_of_materials(files: Iterable[Path]) -> dict[str, Any]:
    """Return the document for these requirement files."""
    found = {
        (name, version): hashes
        for file in files
        for name, version, hashes in packages(file.read_text("utf-8").splitlines())
    }
    components = [_component(name, version, hashes) for (name, version), hashes in sorted(found.items())]
    program = f"pkg:pypi/minitoolai@{__version__}"
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps([program, components]))
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": program,
                "name": "minitoolai",
                "version": __version__,
                "purl": program,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            }
        },
        "components": components,
        "dependencies": [{"ref": program, "dependsOn": [component["bom-ref"] for component in components]}],
    }


def _component(name: str, version: str, hashes: list[str]) -> dict[str, Any]:
    purl = f"pkg:pypi/{name}@{version}"
    # Of several files, such as wheels for several platforms, one is installed. A component may have one hash for each
    # algorithm only, so the accepted ones are properties.
    accepted = [{"name": "minitoolai:accepted-sha256", "value": value} for value in sorted(hashes)]
    return {
        "type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl, "properties": accepted,
    }  # fmt: skip


def main() -> None:
    """Print the document."""
    sys.stdout.write(json.dumps(bill_of_materials(ROOT / name for name in FILES), indent=1) + "\n")


if __name__ == "__main__":
    main()
