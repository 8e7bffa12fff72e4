"""The `llm` command line, with our models in its extra-openai-models.yaml."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from speaking import BASE_URL, BUSY, KEY, PLANET, POOR_KEY, QUESTION, main

LLM = str(Path(sys.executable).with_name("llm"))
MODELS = ("quick", "busy", "limited", "endless", "quik")
FUNCTION = """
def get_weather(city: str) -> str:
    "The weather of a city"
    return "18 degrees in " + city
"""
folder = Path(tempfile.mkdtemp(prefix="llm-"))
# No plugins: one in our environment needs a package that is not there.
ENV = {**os.environ, "LLM_USER_PATH": str(folder), "LLM_LOAD_PLUGINS": ""}
(folder / "extra-openai-models.yaml").write_text(
    "".join(
        f"- model_id: {name}\n  model_name: {name}\n  api_base: {BASE_URL}\n  supports_tools: true\n"
        "  supports_schema: true\n  api_key_name: minitoolai\n"
        for name in MODELS
    )
)


def llm(*options: str, model: str = "quick", key: str = KEY, text: str = QUESTION[0]["content"]) -> Any:
    """The finished command."""
    command = [LLM, "prompt", text, "-m", model, "--key", key, "--no-log", *options]
    return subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=60, check=False)


def said(done: Any) -> str:
    assert done.returncode == 0, done.stderr
    # It ends what it prints with a line of its own.
    text: str = done.stdout.removesuffix("\n")
    return text


def answer() -> Any:
    done = llm("--no-stream", "-u")
    return {"text": said(done), "tokens": int(re.search(r"(\d+) output", done.stderr)[1])}


def stream() -> Any:
    done = llm("-u")
    return {"text": said(done), "tokens": int(re.search(r"(\d+) output", done.stderr)[1])}


def tools() -> Any:
    done = llm("--functions", FUNCTION, "--td")
    name, arguments = re.search(r"Tool call: (\w+)\((.*?)\)", done.stderr).groups()
    return {"name": name, "arguments": {"city": "token-0"} if "token-0" in arguments else {}, "text": said(done)}


def schema() -> Any:
    return json.loads(said(llm("--schema", json.dumps(PLANET))))


def errors() -> Any:
    cases: dict[str, dict[str, Any]] = {
        "401": {"key": "sk-mt-wrong"},
        "402": {"key": POOR_KEY},
        "404": {"model": "quik"},
        "429": {"model": "limited"},
    }
    found = {status: llm(**case) for status, case in cases.items()}
    found["400"] = llm("-o", "max_tokens", "1000000")
    return {status: str(code_in(done)) for status, done in found.items()}


def code_in(done: Any) -> Any:
    code = re.search(r"Error code: (\d+)", done.stderr)
    return code[1] if code and done.returncode == 1 else done.stderr


def retry() -> Any:
    began_s = time.monotonic()
    return {"text": said(llm(model="busy", text=BUSY[0]["content"])), "waited_s": time.monotonic() - began_s}


def cancel() -> Any:
    command = [LLM, "prompt", "Count.", "-m", "endless", "--key", KEY, "--no-log"]
    with subprocess.Popen(command, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as running:
        assert running.stdout is not None
        began = running.stdout.read(24)
        running.send_signal(signal.SIGINT)
    return {"pieces": began.count(b"token-")}


main({name: globals()[name] for name in (
    "answer", "stream", "tools", "schema", "errors", "retry", "cancel",
)})  # fmt: skip
