"""`minitoolai models`: what is offered, by which engine, ready or why not."""

from __future__ import annotations

import argparse
import asyncio

from minitoolai.bootstrap import Services, build
from minitoolai.cli.common import prepare, say
from minitoolai.cli.listing import chat_state, image_lines, purchase_lines
from minitoolai.core.catalog import ChatModel, EmbeddingModel, ImageModel
from minitoolai.core.money import format_dollars
from minitoolai.core.voices import SpeechModel
from minitoolai.engines.painter_wiring import make_image_engines
from minitoolai.settings import Settings


def models(settings: Settings, _: argparse.Namespace) -> None:
    """models: what is offered, by which engine, ready or why not."""
    prepare(settings)
    services = built(settings)
    catalog = services.reports.catalog
    for offer in services.reports.offers():
        if isinstance(offer.model, ImageModel):
            # Below: each of them needs a file of its own.
            continue
        if isinstance(offer.model, SpeechModel):
            # Below: each of them has voices of its own.
            state = f"ready    {offer.engine}" if offer.engine else f"MISSING  {offer.why_not}"
        else:
            state = chat_state(catalog, offer.model, lambda name, _: services.engines[name].why_not_ready())
        say(f"{offer.model.name:<16} {_kind_and_price(offer.model)}   {state}")
        for line in purchase_lines(catalog, offer.model):
            say(line)
    for engine in services.engines.values():
        if why := engine.why_blind():
            say(f"  {engine.name} sees no pictures: {why}")
    for model in services.speech.catalog.speech.values():
        voices: dict[str, list[str]] = {}
        for voice in model.voices:
            why_not = services.speech.why_not(voice)
            state = f"MISSING  {voice.engine}: {why_not}" if why_not else f"ready    {voice.engine}, {voice.language}"
            voices.setdefault(state, []).append(voice.id)
        for state, names in voices.items():
            say(f"  voice {', '.join(names)}: {state}")
    engines = make_image_engines(catalog, settings, services.http)
    for line in image_lines(catalog, lambda name, model: engines[name].why_not_ready(model.name)):
        say(line)


def _kind_and_price(model: ChatModel | SpeechModel) -> str:
    if isinstance(model, SpeechModel):
        return f"speech  $/1M characters: {_dollars_per_million(model.price)}"
    if isinstance(model, EmbeddingModel):
        return f"embedding  $/1M in: {_dollars_per_million(model.price_input)}"
    return f"chat  $/1M in, out: {_dollars_per_million(model.price_input)}  {_dollars_per_million(model.price_output)}"


def _dollars_per_million(price: int) -> str:
    return format_dollars(price * 1_000_000)[:-6].rjust(9)


def built(settings: Settings) -> Services:
    """Everything a server would hold, not started."""

    async def make() -> Services:
        return build(settings)

    return asyncio.run(make())
