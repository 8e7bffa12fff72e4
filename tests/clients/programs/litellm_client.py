"""LiteLLM as a library, in an environment of its own."""

import json
import time
from typing import Any

import litellm
from speaking import BASE_URL, BUSY, KEY, PLANET, QUESTION, TEXTS, WEATHER, main, refusals


def ask(messages: Any = QUESTION, model: str = "quick", key: str = KEY, **fields: Any) -> Any:
    return litellm.completion(
        model=f"openai/{model}", messages=messages, api_base=BASE_URL, api_key=key, timeout=30, **fields
    )


def answer() -> Any:
    made = ask()
    return {"text": made.choices[0].message.content, "tokens": made.usage.completion_tokens}


def stream() -> Any:
    pieces, tokens = [], 0
    for chunk in ask(stream=True, stream_options={"include_usage": True}):
        pieces += [choice.delta.content for choice in chunk.choices if choice.delta.content]
        tokens = chunk.usage.completion_tokens if getattr(chunk, "usage", None) else tokens
    return {"text": "".join(pieces), "pieces": len(pieces), "tokens": tokens}


def tools() -> Any:
    message = ask(tools=[WEATHER], tool_choice="required").choices[0].message
    (call,) = message.tool_calls
    answered = {"role": "tool", "tool_call_id": call.id, "content": "18 °C"}
    final = ask([*QUESTION, message, answered], tools=[WEATHER])
    arguments = json.loads(call.function.arguments)
    return {"name": call.function.name, "arguments": arguments, "text": final.choices[0].message.content}


def schema() -> Any:
    form = {"type": "json_schema", "json_schema": {"name": "moons", "schema": PLANET, "strict": True}}
    return json.loads(ask(response_format=form).choices[0].message.content)


def errors() -> Any:
    return refusals(lambda **case: ask(max_retries=0, **case))


def retry() -> Any:
    began_s = time.monotonic()
    made = ask(BUSY, model="busy", max_retries=2)
    return {"text": made.choices[0].message.content, "waited_s": time.monotonic() - began_s}


def headers() -> Any:
    made = ask()
    found = made._hidden_params["additional_headers"]
    return {"generation": found["llm_provider-x-generation-id"], "text": made.choices[0].message.content}


def cancel() -> Any:
    long = ask(model="endless", stream=True)
    pieces = [next(long) for _ in range(4)]
    long.completion_stream.close()
    return {"pieces": len(pieces)}


def embeddings() -> Any:
    made = litellm.embedding(model="openai/vectors", input=TEXTS, api_base=BASE_URL, api_key=KEY)
    return {"vectors": [item["embedding"] for item in made.data]}


litellm.suppress_debug_info = True
main({name: globals()[name] for name in (
    "answer", "stream", "tools", "schema", "errors", "retry", "headers", "cancel", "embeddings",
)})  # fmt: skip
