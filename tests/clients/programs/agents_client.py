"""OpenAI's agents package, which speaks /v1/responses."""

import asyncio
from typing import Any

import pydantic
from agents import Agent, ModelSettings, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled
from openai import AsyncOpenAI
from speaking import BASE_URL, KEY, QUESTION, main, refusals

set_tracing_disabled(disabled=True)


class Moons(pydantic.BaseModel):
    """What a structured answer is read into."""

    planet: str


def agent(key: str = KEY, model: str = "quick", **more: Any) -> Agent:
    client = AsyncOpenAI(base_url=BASE_URL, api_key=key, max_retries=0)
    return Agent("helper", model=OpenAIResponsesModel(model, client), **more)


def asked() -> str:
    return QUESTION[0]["content"]


def answer() -> Any:
    made = Runner.run_sync(agent(), asked())
    return {"text": made.final_output, "tokens": made.context_wrapper.usage.output_tokens}


def stream() -> Any:
    async def run() -> Any:
        made = Runner.run_streamed(agent(), asked())
        pieces = [
            event.data.delta
            async for event in made.stream_events()
            if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
        ]
        tokens = made.context_wrapper.usage.output_tokens
        return {"text": "".join(pieces), "pieces": len(pieces), "tokens": tokens}

    return asyncio.run(run())


def tools() -> Any:
    called: list[str] = []

    @function_tool
    def get_weather(city: str) -> str:
        """The weather of a city."""
        called.append(city)
        return f"18 °C in {city}"

    able, history = agent(tools=[get_weather]), []
    for _ in range(3):
        made = Runner.run_sync(able, [*history, *QUESTION])
        history = made.to_input_list()
    assert len(called) == 3
    return {"name": "get_weather", "arguments": {"city": called[0]}, "text": made.final_output}


def schema() -> Any:
    return Runner.run_sync(agent(output_type=Moons), asked()).final_output.model_dump()


def errors() -> Any:
    def ask(key: str = KEY, model: str = "quick", **fields: Any) -> None:
        Runner.run_sync(agent(key, model, model_settings=ModelSettings(**fields)), asked())

    return refusals(ask)


def responses() -> Any:
    return answer()


main({name: globals()[name] for name in ("answer", "stream", "tools", "schema", "errors", "responses")})
