"""curl, as one would type it."""

import json
import subprocess
import time
from typing import Any

from speaking import BASE_URL, BUSY, KEY, PLANET, POOR_KEY, QUESTION, TEXTS, WEATHER, main

TYPE = "Content-Type: application/json"


def curl(*options: str, key: str = KEY, path: str = "/chat/completions", **fields: Any) -> str:
    """What curl prints."""
    body = json.dumps({"model": "quick", "messages": QUESTION, **fields})
    command = ["curl", "-sS", "--max-time", "30", BASE_URL + path, "-H", f"Authorization: Bearer {key}", "-H", TYPE]
    return subprocess.run([*command, *options, "-d", body], capture_output=True, text=True, check=True).stdout


def ask(*options: str, **fields: Any) -> Any:
    return json.loads(curl(*options, **fields))


def text(made: Any) -> str:
    found: str = made["choices"][0]["message"]["content"]
    return found


def answer() -> Any:
    made = ask()
    return {"text": text(made), "tokens": made["usage"]["completion_tokens"]}


def stream() -> Any:
    lines = curl("-N", stream=True, stream_options={"include_usage": True}).split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    pieces = [choice["delta"].get("content") for chunk in chunks for choice in chunk["choices"]]
    said = [piece for piece in pieces if piece]
    return {"text": "".join(said), "pieces": len(said), "tokens": chunks[-1]["usage"]["completion_tokens"]}


def tools() -> Any:
    message = ask(tools=[WEATHER], tool_choice="required")["choices"][0]["message"]
    (call,) = message["tool_calls"]
    answered = {"role": "tool", "tool_call_id": call["id"], "content": "18 °C"}
    final = ask(messages=[*QUESTION, message, answered], tools=[WEATHER])
    function = call["function"]
    return {"name": function["name"], "arguments": json.loads(function["arguments"]), "text": text(final)}


def schema() -> Any:
    form = {"type": "json_schema", "json_schema": {"name": "moons", "schema": PLANET, "strict": True}}
    return json.loads(text(ask(response_format=form)))


def errors() -> Any:
    cases: dict[str, dict[str, Any]] = {
        "401": {"key": "sk-mt-wrong"},
        "402": {"key": POOR_KEY},
        "404": {"model": "quik"},
        "400": {"max_tokens": 10**6},
        "429": {"model": "limited"},
    }
    return {status: refusal(**case) for status, case in cases.items()}


def refusal(**case: Any) -> str:
    body, _, status = curl("-w", "\n%{http_code}", **case).rpartition("\n")
    return f"{status} {json.loads(body)['error']['code']}"


def retry() -> Any:
    began_s = time.monotonic()
    made = ask("--fail", "--retry", "2", model="busy", messages=BUSY)
    return {"text": text(made), "waited_s": time.monotonic() - began_s}


def headers() -> Any:
    head, _, body = curl("-D", "-").partition("\n\n")
    found = {name.lower(): value for name, _, value in (line.partition(": ") for line in head.split("\n"))}
    return {"generation": found["x-generation-id"], "text": text(json.loads(body))}


def cancel() -> Any:
    body = json.dumps({"model": "endless", "messages": QUESTION, "stream": True})
    command = ["curl", "-sSN", BASE_URL + "/chat/completions", "-H", f"Authorization: Bearer {KEY}", "-H", TYPE]
    with subprocess.Popen([*command, "-d", body], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        pieces = [running.stdout.readline() for _ in range(8)]
        running.terminate()
    return {"pieces": sum(piece.startswith("data:") for piece in pieces)}


def responses() -> Any:
    made = ask(path="/responses", messages=None, input="Hello")
    return {"text": made["output"][0]["content"][0]["text"], "tokens": made["usage"]["output_tokens"]}


def completions() -> Any:
    made = ask(path="/completions", messages=None, prompt="Once upon a time", max_tokens=50)
    return {"text": made["choices"][0]["text"], "tokens": made["usage"]["completion_tokens"]}


def models() -> Any:
    command = ["curl", "-sS", BASE_URL + "/models", "-H", f"Authorization: Bearer {KEY}"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return {"found": "quick" in [model["id"] for model in found["data"]]}


def embeddings() -> Any:
    made = ask(path="/embeddings", messages=None, model="vectors", input=TEXTS)
    return {"vectors": [item["embedding"] for item in made["data"]]}


main({name: globals()[name] for name in (
    "answer", "stream", "tools", "schema", "errors", "retry", "headers", "cancel", "responses", "completions", "models",
    "embeddings",
)})  # fmt: skip
