"""Run schemathesis against a server: valid and invalid requests for everything in /openapi.json."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import requests

from tests.support.catalogs import FAKE
from tests.support.server import Account

#: Every kind of model, each with a fake engine, so that every failure is the server's own.
CATALOG = (
    FAKE
    + """
[engines.tone]
kind = "fake"
model = "tone-1"

[speech.tone]
price = "15.00"
max_characters = 2000
voice = "tone"
voices = [{ id = "tone", engine = "tone", language = "en", licence = "none" }]

[image.flat]
price = "0.0015"
engines = ["tone"]
"""
)
#: The model for each kind of request.
MODELS = {
    "SpeechRequest": "tone",
    "ImageRequest": "flat",
    "ImageGenerateRequest": "flat",
    "EmbeddingRequest": "vectors",
}
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
)


def described(url: str) -> dict[str, Any]:
    """Return the server's OpenAPI document, with the names of existing models in place of any string."""
    document: dict[str, Any] = requests.get(url + "/openapi.json", timeout=30).json()
    for name, schema in document["components"]["schemas"].items():
        if name.endswith(("Request", "RequestOpenAI")) and "model" in schema.get("properties", {}):
            schema["properties"]["model"] = {"enum": [MODELS.get(name, "quick"), "nobody"]}
    return document


def fuzz(account: Account, folder: Path, *, seconds: int, seed: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run schemathesis for some seconds; its exit status is 0 if nothing was found."""
    (folder / "openapi.json").write_text(json.dumps(described(account.server.url)))
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", "openapi.json", "--url", account.server.url]
    command += ["-H", f"Authorization: Bearer {account.key}", "--checks", ",".join(CHECKS), "--continue-on-failure"]
    command += ["--max-time", str(seconds), "--request-timeout", "60", "--generation-database", "none", "--no-color"]
    command += ["--output-sanitize", "false", "--suppress-health-check", "all", "--warnings", "off"]
    if seed is not None:
        command += ["--seed", str(seed)]
    env = {key: value for key, value in os.environ.items() if key != "CI"}
    return subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=seconds + 180, check=False
    )
