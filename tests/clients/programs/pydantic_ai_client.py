"""Pydantic AI, OpenAI's chat and responses models."""

import asyncio
from typing import Any

import pydantic
from openai import AsyncOpenAI
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from speaking import BASE_URL, KEY, QUESTION, main, refusals


class Moons(pydantic.BaseModel):
    """What a structured answer is read into."""

    planet: str


def model(key: str = KEY, name: str = "quick", kind: Any = OpenAIChatModel, retries: int = 0) -> Any:
    client = AsyncOpenAI(base_url=BASE_URL, api_key=key, max_retries=retries)
    return kind(name, provider=OpenAIProvider(openai_client=client))


def asked(messages: Any = QUESTION) -> str:
    return str(messages[0]["content"])


def answer() -> Any:
    made = Agent(model()).run_sync(asked())
    return {"text": made.output, "tokens": made.usage.output_tokens}


def stream() -> Any:
    async def run() -> Any:
        async with Agent(model()).run_stream(asked()) as made:
            pieces = [piece async for piece in made.stream_text(delta=True, debounce_by=None)]
            return {"text": "".join(pieces), "pieces": len(pieces), "tokens": made.usage.output_tokens}

    return asyncio.run(run())


def tools() -> Any:
    called: list[str] = []
    agent = Agent(model())

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """The weather of a city."""
        called.append(city)
        return f"18 °C in {city}"

    history: Any = None
    for _ in range(3):
        made = agent.run_sync(asked(), message_history=history)
        history = made.all_messages()
    assert len(called) == 3
    return {"name": "get_weather", "arguments": {"city": called[0]}, "text": made.output}


def schema() -> Any:
    return Agent(model(), output_type=NativeOutput(Moons)).run_sync(asked()).output.model_dump()


def errors() -> Any:
    def ask(key: str = KEY, model: str = "quick", **fields: Any) -> None:
        chosen = globals()["model"](key, model)
        Agent(chosen).run_sync(asked(), model_settings=fields or None)

    return refusals(ask)


def responses() -> Any:
    made = Agent(model(kind=OpenAIResponsesModel)).run_sync(asked())
    return {"text": made.output, "tokens": made.usage.output_tokens}


main({name: globals()[name] for name in ("answer", "stream", "tools", "schema", "errors", "responses")})
