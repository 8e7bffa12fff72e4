"""OpenAI's Python package, asynchronously: a hundred at once, and a task that is cancelled."""

import asyncio
import json
import time
from typing import Any

import openai
from speaking import BASE_URL, BUSY, KEY, QUESTION, WEATHER, main, refusals


def made() -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=BASE_URL, api_key=KEY, timeout=30)


async def answer() -> Any:
    async with made() as client:
        answers = await asyncio.gather(
            *(client.chat.completions.create(model="quick", messages=QUESTION) for _ in range(100))
        )
    (text,) = {answer.choices[0].message.content for answer in answers}
    return {"text": text, "tokens": answers[0].usage.completion_tokens}


async def stream() -> Any:
    pieces, tokens = [], 0
    async with made() as client:
        async for chunk in await client.chat.completions.create(
            model="quick", messages=QUESTION, stream=True, stream_options={"include_usage": True}
        ):
            pieces += [choice.delta.content for choice in chunk.choices if choice.delta.content]
            tokens = chunk.usage.completion_tokens if chunk.usage else tokens
    return {"text": "".join(pieces), "pieces": len(pieces), "tokens": tokens}


async def tools() -> Any:
    async with made() as client:
        async with client.chat.completions.stream(
            model="quick", messages=QUESTION, tools=[{**WEATHER, "function": {**WEATHER["function"], "strict": True}}]
        ) as events:
            message = (await events.get_final_completion()).choices[0].message
        (call,) = message.tool_calls
        answered = {"role": "tool", "tool_call_id": call.id, "content": "18 °C"}
        final = await client.chat.completions.create(
            model="quick", messages=[*QUESTION, message.model_dump(exclude_none=True), answered], tools=[WEATHER]
        )
    arguments = json.loads(call.function.arguments)
    return {"name": call.function.name, "arguments": arguments, "text": final.choices[0].message.content}


async def errors() -> Any:
    async def ask(key: str = KEY, model: str = "quick", **fields: Any) -> None:
        async with made() as client:
            once = client.with_options(api_key=key, max_retries=0)
            await once.chat.completions.create(model=model, messages=QUESTION, **fields)

    # Each refusal gets an event loop of its own.
    return await asyncio.to_thread(refusals, lambda **case: asyncio.run(ask(**case)))


async def retry() -> Any:
    began_s = time.monotonic()
    async with made() as client:
        answer = await client.chat.completions.create(model="busy", messages=BUSY)
    return {"text": answer.choices[0].message.content, "waited_s": time.monotonic() - began_s}


async def headers() -> Any:
    async with made() as client:
        raw = await client.chat.completions.with_raw_response.create(model="quick", messages=QUESTION)
    return {"generation": raw.headers["x-generation-id"], "text": raw.parse().choices[0].message.content}


async def cancel() -> Any:
    pieces: list[Any] = []

    async def read() -> None:
        async with made() as client:
            async for chunk in await client.chat.completions.create(model="endless", messages=QUESTION, stream=True):
                pieces.append(chunk)

    task = asyncio.create_task(read())
    while len(pieces) < 4:
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    return {"pieces": 4}


async def responses() -> Any:
    async with made() as client:
        pieces, final = [], None
        async for event in await client.responses.create(model="quick", input="Hello", stream=True):
            pieces += [event.delta] if event.type == "response.output_text.delta" else []
            final = event.response if event.type == "response.completed" else final
    return {"text": "".join(pieces), "tokens": final.usage.output_tokens}


def run(work: Any) -> Any:
    return lambda: asyncio.run(work())


main({name: run(globals()[name]) for name in (
    "answer", "stream", "tools", "errors", "retry", "headers", "cancel", "responses",
)})  # fmt: skip
