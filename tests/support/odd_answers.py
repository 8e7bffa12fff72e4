"""Make plans for chats with odd reports of usage and clients that disconnect. A number always gives the same plan."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.support import manners, texts, tiktokens
from tests.support.outside_auditor import Texts, Truth, add_delta
from tests.support.upstream import Exchange

LOW, HIGH = 85, 1445
#: Tokens that the upstream's template adds to a message and to a prompt.
PER_MESSAGE, PER_PROMPT = 4, 3
Delta = tuple[int, dict[str, Any]]
ENGINES = ("named", "guessed", "billing")
#: What the upstream reports, from honest counts of prompt and output.
REPORTS: dict[str, Callable[[int, int], list[dict[str, Any]]]] = {
    "honest": lambda p, o: [usage(p, o)],
    "honest cached": lambda p, o: [{**usage(p, o), "prompt_tokens_details": {"cached_tokens": p // 2}}],
    "honest then zeros": lambda p, o: [usage(p, o), usage(0, 0)],
    "honest for xAI": lambda p, o: [{**usage(p, o // 2), "total_tokens": p + o}],
    "zeros": lambda p, o: [usage(0, 0)],
    "absurd": lambda p, o: [usage(p, 2**31 - 1)],
    "absurd prompt": lambda p, o: [usage(10**9, o)],
    "negative": lambda p, o: [usage(-p, -o)],
    "total only": lambda p, o: [{"total_tokens": p + o}],
    "tiny": lambda p, o: [usage(1, 1)],
    "missing": lambda p, o: [],
}


def usage(prompt: int, output: int) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}


@dataclass
class Plan:
    """One request, the upstream's response, and the number of chunks after which the client disconnects."""

    number: int
    engine: str
    prompt: str
    images: list[str]
    image_tokens: int
    choices: int
    deltas: list[Delta]
    report: str
    leave_after: int | None
    stream: bool = True
    sent: int = 0

    @property
    def body(self) -> dict[str, Any]:
        """Return the request."""
        content: Any = f"case {self.number} {self.prompt}"
        if self.images:
            url = "https://93.184.216.34/x.png"
            images = [{"type": "image_url", "image_url": {"url": url, "detail": detail}} for detail in self.images]
            content = [{"type": "text", "text": content}, *images]
        more: dict[str, Any] = {"stream_options": {"include_usage": True}} if self.stream else {}
        more |= {"n": self.choices} if self.choices > 1 else {}
        message = {"role": "user", "content": content}
        return {
            "model": self.engine,
            "messages": [message],
            "stream": self.stream,
            "max_completion_tokens": 4000,
        } | more

    @property
    def prompt_tokens(self) -> int:
        text = tiktokens.count(f"case {self.number} {self.prompt}")
        return text + PER_MESSAGE + PER_PROMPT + self.image_tokens

    def texts(self, deltas: int | None = None) -> Texts:
        """Return the text of the first `deltas` deltas, or of all."""
        found: Texts = {}
        for choice, delta in self.deltas[:deltas]:
            add_delta(found, choice, delta)
        return found

    @property
    def told(self) -> tuple[int, int] | None:
        """Return the report if it is true."""
        whole = sum(map(tiktokens.count, self.texts().values()))
        return (self.prompt_tokens, whole) if self.report.startswith("honest") else None

    def truth(self) -> Truth:
        """Return what the upstream did."""
        deltas = self.sent if self.stream else None
        is_whole = not self.stream or self.sent >= len(self.deltas)
        told = self.told if is_whole else None
        is_read_on = self.engine == "billing"
        return Truth(self.prompt_tokens, self.texts(deltas), told, self.engine != "guessed", is_read_on)

    def reports(self) -> list[dict[str, Any]]:
        return REPORTS[self.report](self.prompt_tokens, sum(map(tiktokens.count, self.texts().values())))


def odd_plan(number: int) -> Plan:
    """Return a plan with any report, any kind of deltas, and often a client that disconnects."""
    draw = random.Random(number)
    kind = draw.choice(("content", "content", "reasoning", "reasoning_content", "tool", "choices"))
    language = draw.choice(list(texts.SENTENCES))
    said = texts.prose(language, draw.randint(100, 1800), draw)
    size = draw.choice((8, 60, 400))
    deltas = _split(kind, said, size)
    leave = draw.randint(1, len(deltas) + 4) if draw.random() < 0.5 else None
    images = ["low"] * draw.choice((0, 0, 1, 10))
    return Plan(
        number,
        draw.choice(ENGINES),
        texts.prose(draw.choice(list(texts.SENTENCES)), draw.randint(20, 1500), draw),
        images,
        LOW * len(images),
        2 if kind == "choices" else 1,
        deltas,
        draw.choice(list(REPORTS)),
        leave,
    )


def honest_plan(number: int) -> Plan:
    """Return a plan with a true report and a client that reads to the end, streamed or not."""
    draw = random.Random(number)
    kinds = ("en", "de", "fr", "es", "ru", "zh", "ja", "code", "json")
    said = texts.KINDS[kinds[number % len(kinds)]](draw.randint(10, 6000), draw)
    asked = texts.KINDS[draw.choice(kinds)](draw.randint(10, 6000), draw)
    images = draw.choices(("low", "high", "auto"), k=draw.choice((0, 0, 0, 1, 3)))
    tokens = sum(LOW if detail == "low" else draw.randint(LOW, HIGH) for detail in images)
    deltas = _split("content", said, draw.choice((1, 4, 30, 10_000)))
    engine = draw.choice(ENGINES)
    return Plan(number, engine, asked, images, tokens, 1, deltas, "honest", None, draw.random() < 0.6)


def _split(kind: str, said: str, size: int) -> list[Delta]:
    pieces = [said[at : at + size] for at in range(0, len(said), size)]
    if kind == "tool":
        head = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": ""}}
        calls = [{"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in pieces]
        return [(0, {"tool_calls": [head]}), *((0, call) for call in calls)]
    if kind == "choices":
        return [(place % 2, {"content": piece}) for place, piece in enumerate(pieces)]
    return [(0, {kind: piece}) for piece in pieces]


def answering(plans: dict[int, Plan], pace_s: float = 0.001) -> Callable[[Exchange], Any]:
    """Return the behaviour of an upstream that follows the plan of each request, and records in it what was sent."""

    async def behave(exchange: Exchange) -> None:
        content = exchange.body["messages"][0]["content"]
        plan = plans[int((content if isinstance(content, str) else content[0]["text"]).split()[1])]
        if not plan.stream:
            _answer_whole(exchange, plan)
            return
        exchange.begin()
        for choice, delta in plan.deltas:
            if exchange.gone.is_set():
                return
            event = manners.chunk(delta)
            event["choices"][0]["index"] = choice
            exchange.event(event)
            plan.sent += 1
            if plan.leave_after is not None:
                await asyncio.sleep(pace_s)
        for choice in range(plan.choices):
            event = manners.chunk({}, finish="stop")
            event["choices"][0]["index"] = choice
            exchange.event(event)
        for report in plan.reports():
            exchange.event({**manners.head("chat.completion.chunk"), "choices": [], "usage": report})
        exchange.event("[DONE]")
        exchange.end()

    return behave


def _answer_whole(exchange: Exchange, plan: Plan) -> None:
    messages: list[dict[str, Any]] = [{"role": "assistant", "content": None} for _ in range(plan.choices)]
    for (choice, name), text in plan.texts().items():
        messages[choice][name] = text
    choices = [
        {"index": index, "message": message, "logprobs": None, "finish_reason": "stop"}
        for index, message in enumerate(messages)
    ]
    reports = plan.reports()
    exchange.answer(
        200, {**manners.head("chat.completion"), "choices": choices, "usage": reports[-1] if reports else None}
    )


def catalog(base_url: str) -> str:
    """Return a catalog of three engines: with a tokenizer, without, and one that bills after a disconnect."""
    extra = {"named": 'tokenizer = "o200k"', "guessed": "", "billing": 'tokenizer = "o200k"\nbills_after_cancel = true'}
    text = ""
    for name, more in extra.items():
        text += (
            f'\n[engines.{name}]\nkind = "upstream"\nbase_url = "{base_url}"\nretries = 0\ncooldown_after = 0\n'
            f"fetches_images = true\n{more}\n"
        )
        text += (
            f'\n[chat."{name}"]\ninput = "0.15"\noutput = "0.60"\ncontext = 128_000\nmax_output = 4096\n'
            f'image_tokens = {{ low = {LOW}, high = {HIGH} }}\nengines = ["{name}"]\n'
        )
    return text
