"""OpenAI's Python package, in the ordinary way."""

import json
import time
from typing import Any

import openai
import pydantic
from speaking import BASE_URL, BUSY, CITY, KEY, QUESTION, TEXTS, WEATHER, main, refusals

client = openai.OpenAI(base_url=BASE_URL, api_key=KEY, timeout=30)


class Moons(pydantic.BaseModel):
    """What a structured answer is read into."""

    planet: str


def answer() -> Any:
    made = client.chat.completions.create(model="quick", messages=QUESTION)
    return {"text": made.choices[0].message.content, "tokens": made.usage.completion_tokens}


def stream() -> Any:
    pieces, tokens = [], 0
    for chunk in client.chat.completions.create(
        model="quick", messages=QUESTION, stream=True, stream_options={"include_usage": True}
    ):
        pieces += [choice.delta.content for choice in chunk.choices if choice.delta.content]
        tokens = chunk.usage.completion_tokens if chunk.usage else tokens
    return {"text": "".join(pieces), "pieces": len(pieces), "tokens": tokens}


def tools() -> Any:
    made = client.chat.completions.create(model="quick", messages=QUESTION, tools=[WEATHER], tool_choice="required")
    message = made.choices[0].message
    (call,) = message.tool_calls
    answered = {"role": "tool", "tool_call_id": call.id, "content": "18 °C"}
    final = client.chat.completions.create(model="quick", messages=[*QUESTION, message, answered], tools=[WEATHER])
    arguments = json.loads(call.function.arguments)
    return {"name": call.function.name, "arguments": arguments, "text": final.choices[0].message.content}


def schema() -> Any:
    made = client.chat.completions.parse(model="quick", messages=QUESTION, response_format=Moons)
    return made.choices[0].message.parsed.model_dump()


def errors() -> Any:
    def ask(key: str = KEY, model: str = "quick", **fields: Any) -> None:
        once = client.with_options(api_key=key, max_retries=0)
        once.chat.completions.create(model=model, messages=QUESTION, **fields)

    return refusals(ask)


def retry() -> Any:
    began_s = time.monotonic()
    made = client.chat.completions.create(model="busy", messages=BUSY)
    return {"text": made.choices[0].message.content, "waited_s": time.monotonic() - began_s}


def headers() -> Any:
    raw = client.chat.completions.with_raw_response.create(model="quick", messages=QUESTION)
    return {"generation": raw.headers["x-generation-id"], "text": raw.parse().choices[0].message.content}


def cancel() -> Any:
    with client.chat.completions.create(model="endless", messages=QUESTION, stream=True) as long:
        pieces = [next(long) for _ in range(4)]
    return {"pieces": len(pieces)}


def responses() -> Any:
    whole = client.responses.create(model="quick", input="Hello", instructions="Be terse.")
    flat = {"type": "function", "name": "get_weather", "parameters": CITY, "strict": False}
    called = client.responses.create(model="quick", input="Hello", tools=[flat], tool_choice="required")
    with client.responses.stream(model="quick", input="Hello") as events:
        text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        final = events.get_final_response()
    assert final.output_text == text == whole.output_text
    return {"text": text, "tokens": final.usage.output_tokens, "name": called.output[0].name}


def completions() -> Any:
    made = client.completions.create(model="quick", prompt="Once upon a time", max_tokens=50)
    pieces = list(client.completions.create(model="quick", prompt="Once upon a time", max_tokens=50, stream=True))
    assert "".join(piece.choices[0].text for piece in pieces) == made.choices[0].text
    return {"text": made.choices[0].text, "tokens": made.usage.completion_tokens}


def models() -> Any:
    return {"found": "quick" in [model.id for model in client.models.list()]}


def embeddings() -> Any:
    made = client.embeddings.create(model="vectors", input=TEXTS)
    assert made.usage.prompt_tokens == 3
    return {"vectors": [item.embedding for item in made.data]}


main({name: globals()[name] for name in (
    "answer", "stream", "tools", "schema", "errors", "retry", "headers", "cancel", "responses", "completions", "models",
    "embeddings",
)})  # fmt: skip
