"""LangChain's ChatOpenAI."""

import time
from typing import Any

import pydantic
from langchain_core.messages import ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from speaking import BASE_URL, BUSY, KEY, QUESTION, TEXTS, main, refusals


class Moons(pydantic.BaseModel):
    """What a structured answer is read into."""

    planet: str


@tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"18 °C in {city}"


def chat(model: str = "quick", key: str = KEY, **more: Any) -> ChatOpenAI:
    return ChatOpenAI(base_url=BASE_URL, api_key=key, model=model, timeout=30, **more)


def asked(messages: Any = QUESTION) -> Any:
    return messages[0]["content"]


def answer() -> Any:
    made = chat().invoke(asked())
    return {"text": made.content, "tokens": made.usage_metadata["output_tokens"]}


def stream() -> Any:
    pieces, tokens = [], 0
    for chunk in chat(stream_usage=True).stream(asked()):
        pieces += [chunk.content] if chunk.content else []
        tokens = chunk.usage_metadata["output_tokens"] if chunk.usage_metadata else tokens
    return {"text": "".join(pieces), "pieces": len(pieces), "tokens": tokens}


def tools() -> Any:
    able = chat().bind_tools([get_weather])
    first = able.invoke(asked())
    (call,) = first.tool_calls
    result = ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"])
    final = able.invoke([("user", asked()), first, result])
    return {"name": call["name"], "arguments": call["args"], "text": final.content}


def schema() -> Any:
    return chat().with_structured_output(Moons, method="json_schema").invoke(asked()).model_dump()


def errors() -> Any:
    def ask(**case: Any) -> None:
        chat(max_retries=0, **case).invoke(asked())

    return refusals(ask)


def retry() -> Any:
    began_s = time.monotonic()
    made = chat(model="busy", max_retries=2).invoke(asked(BUSY))
    return {"text": made.content, "waited_s": time.monotonic() - began_s}


def headers() -> Any:
    made = chat(include_response_headers=True).invoke(asked())
    return {"generation": made.response_metadata["headers"]["x-generation-id"], "text": made.content}


def cancel() -> Any:
    long = chat(model="endless").stream(asked())
    pieces = [next(long) for _ in range(4)]
    long.close()
    return {"pieces": len(pieces)}


def responses() -> Any:
    made = chat(use_responses_api=True).invoke(asked())
    pieces = [chunk.text for chunk in chat(use_responses_api=True).stream(asked())]
    assert "".join(pieces) == made.text
    return {"text": made.text, "tokens": made.usage_metadata["output_tokens"]}


def embeddings() -> Any:
    # Without this it would count tokens itself, with a file that it has to fetch.
    maker = OpenAIEmbeddings(base_url=BASE_URL, api_key=KEY, model="vectors", check_embedding_ctx_length=False)
    return {"vectors": maker.embed_documents(TEXTS)}


main({name: globals()[name] for name in (
    "answer", "stream", "tools", "schema", "errors", "retry", "headers", "cancel", "responses", "embeddings",
)})  # fmt: skip
