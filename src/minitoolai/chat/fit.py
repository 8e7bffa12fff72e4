"""Whether a request fits a model and the engine that answers; a refusal names the field and the models that can."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from minitoolai.core.catalog import Catalog, ChatModel
from minitoolai.core.errors import ContextExceeded, InvalidRequest
from minitoolai.core.inference import ChatRequest
from minitoolai.engines.protocols import ChatEngine

#: Models that a refusal names at most.
NAMED_AT_MOST = 5


class Offers(Protocol):
    """Who could answer instead."""

    catalog: Catalog
    engines: Mapping[str, ChatEngine]

    def engine_for(self, model: ChatModel) -> ChatEngine | None:
        """The one that would answer now."""


def check_fit(request: ChatRequest, model: ChatModel, engine: ChatEngine, offers: Offers) -> None:
    """InvalidRequest that names the field which this model, on this engine, cannot honour."""
    if request.images and not sees(model, engine):
        raise InvalidRequest(_blind(model, engine, offers), param="messages")
    field = engine.unsupported_field(request)
    if field is not None:
        others = models_that(offers, lambda _, other: other.unsupported_field(request) is None)
        raise InvalidRequest(
            f"{field} is not supported by {engine.name}, which answers for {model.name} here; leave it out"
            + _or(others),
            param=field,
        )
    if request.limit is not None and request.limit > model.max_output and not request.limit_is_default:
        raise InvalidRequest(
            f"max_completion_tokens is {request.limit} and {model.name} writes at most {model.max_output}",
            param="max_completion_tokens",
        )


def models_that(offers: Offers, can: Callable[[ChatModel, ChatEngine], bool]) -> list[str]:
    """The names of the models whose engine, as things stand, can."""
    found = ((model, offers.engine_for(model)) for model in offers.catalog.chat.values())
    return [model.name for model, engine in found if engine is not None and can(model, engine)]


def _or(others: list[str]) -> str:
    if not others:
        return "; no model here can at the moment"
    more = f" and {len(others) - NAMED_AT_MOST} more" if len(others) > NAMED_AT_MOST else ""
    return f", or use a model that can: {', '.join(others[:NAMED_AT_MOST])}{more}"


def sees(model: ChatModel, engine: ChatEngine) -> bool:
    """Whether pictures may be shown to this model on this engine: it depends on both."""
    return model.image_tokens is not None and engine.vision


def _blind(model: ChatModel, engine: ChatEngine, offers: Offers) -> str:
    seeing = models_that(offers, sees)
    if model.image_tokens is None:
        could = seeing or [other.name for other in offers.catalog.chat.values() if other.image_tokens is not None]
        return f"{model.name} cannot see images; remove the image_url part{_or(could)}"
    return (
        f"{model.name} is answered here by {engine.name}, which cannot see images; remove the image_url part"
        f"{_or(seeing)}, or have the operator set an upstream that can, such as MINITOOLAI_OPENAI_API_KEY"
    )


def output_limit(request: ChatRequest, model: ChatModel, context: int | None, prompt_tokens: int | None) -> int:
    """Output tokens to hold and force: what was asked, or the most that fits. ContextExceeded where nothing fits."""
    limit = min(request.limit or model.max_output, model.max_output)
    window = min(model.context, context or model.context)
    if prompt_tokens is None:
        return limit
    room = window - prompt_tokens
    if room < 1 or (request.limit is not None and not request.limit_is_default and limit > room):
        raise ContextExceeded(
            f"the prompt is {prompt_tokens} tokens and {limit} of output were asked for; {model.name} has {window} "
            "here for both: shorten the messages or lower max_completion_tokens",
            param="messages",
        )
    return min(limit, room)
