"""Anthropic's Python package, in the ordinary way."""

import json
import time
from typing import Any

import anthropic
from speaking import BASE_URL, BUSY, CITY, KEY, PLANET, QUESTION, main, refusals

client = anthropic.Anthropic(base_url=BASE_URL.removesuffix("/v1"), api_key=KEY, timeout=30)
WEATHER = {"name": "get_weather", "description": "The weather of a city", "input_schema": CITY}


def ask(**fields: Any) -> Any:
    return client.messages.create(**{"model": "quick", "max_tokens": 100, "messages": QUESTION, **fields})


def text_of(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def answer() -> Any:
    made = ask()
    counted = client.messages.count_tokens(model="quick", messages=QUESTION)
    assert counted.input_tokens == made.usage.input_tokens
    return {"text": text_of(made), "tokens": made.usage.output_tokens}


def stream() -> Any:
    with client.messages.stream(model="quick", max_tokens=100, messages=QUESTION) as events:
        pieces = list(events.text_stream)
        final = events.get_final_message()
    assert text_of(final) == "".join(pieces)
    return {"text": "".join(pieces), "pieces": len(pieces), "tokens": final.usage.output_tokens}


def tools() -> Any:
    made = ask(tools=[WEATHER], tool_choice={"type": "any"})
    (call,) = [block for block in made.content if block.type == "tool_use"]
    with client.messages.stream(
        model="quick", max_tokens=100, messages=QUESTION, tools=[WEATHER], tool_choice={"type": "any"}
    ) as events:
        assert events.get_final_message().content[-1].input == call.input
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "18 °C"}
    turn = [*QUESTION, {"role": "assistant", "content": made.content}, {"role": "user", "content": [result]}]
    final = ask(messages=turn, tools=[WEATHER])
    return {"name": call.name, "arguments": call.input, "text": text_of(final)}


def schema() -> Any:
    return json.loads(text_of(ask(output_config={"format": {"type": "json_schema", "schema": PLANET}})))


def errors() -> Any:
    def fail(key: str = KEY, model: str = "quick", max_tokens: int = 100, **fields: Any) -> None:
        once = client.with_options(api_key=key, max_retries=0)
        once.messages.create(
            model=model, max_tokens=max_tokens, messages=QUESTION, extra_body=fields if fields else None
        )

    return refusals(fail)


def retry() -> Any:
    began_s = time.monotonic()
    return {"text": text_of(ask(model="busy", messages=BUSY)), "waited_s": time.monotonic() - began_s}


def headers() -> Any:
    raw = client.messages.with_raw_response.create(model="quick", max_tokens=100, messages=QUESTION)
    assert raw.headers["request-id"]
    return {"generation": raw.headers["x-generation-id"], "text": text_of(raw.parse())}


def cancel() -> Any:
    with client.messages.stream(model="endless", max_tokens=4000, messages=QUESTION) as events:
        pieces = [text for text, _ in zip(events.text_stream, range(4), strict=False)]
    return {"pieces": len(pieces)}


def models() -> Any:
    assert client.models.retrieve("quick").id == "quick"
    return {"found": "quick" in [model.id for model in client.models.list(limit=2)]}


main({name: globals()[name] for name in (
    "answer", "stream", "tools", "schema", "errors", "retry", "headers", "cancel", "models",
)})  # fmt: skip
