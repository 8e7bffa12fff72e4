"""Check openapi.yaml and compile it to the JSON that the server sends.

    python -m tools.openapi           write src/minitoolai/api/openapi.json
    python -m tools.openapi --check   exit 1 if openapi.json is not what openapi.yaml compiles to

The source shares responses and parameters by reference. The compiled document has them filled in, because some client
generators read neither. The server reads JSON only, so it needs no YAML parser.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml
from openapi_spec_validator import OpenAPIV31SpecValidator

from minitoolai import __version__
from minitoolai.api.openapi import DOCUMENT

SOURCE = DOCUMENT.with_suffix(".yaml")
INLINED = ("responses", "parameters")


def compile_document(source: Path = SOURCE) -> dict[str, Any]:
    """Return the document with shared responses and parameters in place of their references.

    Raises ValueError, naming each fault, if the result is not valid OpenAPI 3.1.
    """
    document: dict[str, Any] = yaml.safe_load(source.read_text("utf-8"))
    del document["x-shared"]
    document["info"]["version"] = __version__
    shared = {kind: document["components"].pop(kind) for kind in INLINED}
    document["paths"] = _inline(document["paths"], shared)
    errors = OpenAPIV31SpecValidator(document).iter_errors()
    faults = [f"{'/'.join(map(str, error.path))}: {error.message}" for error in errors]
    if faults:
        raise ValueError("\n".join(faults))
    return document


def as_text(document: dict[str, Any]) -> str:
    """Return the compiled document as text, without needless spaces."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")) + "\n"


def _inline(node: Any, shared: dict[str, Any]) -> Any:
    if isinstance(node, list):
        return [_inline(item, shared) for item in node]
    if not isinstance(node, dict):
        return node
    kind, _, name = node.get("$ref", "").removeprefix("#/components/").partition("/")
    if kind in shared:
        return shared[kind][name]
    return {key: _inline(value, shared) for key, value in node.items()}


def main() -> int:
    """Compile, or compare with what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if openapi.json is out of date")
    options = parser.parse_args()
    try:
        text = as_text(compile_document())
    except ValueError as error:
        sys.stderr.write(f"{SOURCE.name} is not valid OpenAPI:\n{error}\n")
        return 1
    if options.check:
        if DOCUMENT.read_text("utf-8") != text:
            sys.stderr.write(f"{DOCUMENT.name} is out of date; run `python -m tools.openapi`\n")
            return 1
        return 0
    DOCUMENT.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
