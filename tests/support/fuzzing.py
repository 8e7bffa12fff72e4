"""schemathesis against a server of ours: what /openapi.json describes is asked for, rightly and wrongly."""

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

#: Every kind of model, each behind a fake: what is meant is found at once, and what breaks is ours.
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
#: Who answers each kind of request.
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
    """The server's own description, with the names of models that are there in place of any text."""
    document: dict[str, Any] = requests.get(url + "/openapi.json", timeout=30).json()
    for name, schema in document["components"]["schemas"].items():
        if name.endswith(("Request", "RequestOpenAI")) and "model" in schema.get("properties", {}):
            schema["properties"]["model"] = {"enum": [MODELS.get(name, "quick"), "nobody"]}
    return document


def fuzz(account: Account, folder: Path, *, seconds: int, seed: int | None = None) -> subprocess.CompletedProcess[str]:
    """A run of so many seconds; its exit status is 0 where nothing was found."""
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
