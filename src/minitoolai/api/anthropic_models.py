"""The models on offer in the format of Anthropic's API, for clients that send the header `anthropic-version`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request

from minitoolai.availability import Offer
from minitoolai.core.catalog.catalog import ChatModel, EmbeddingModel
from minitoolai.core.errors import InvalidRequest

_MOST, _DEFAULT = 1000, 20
#: The catalog has no dates; this value stands for an unknown release date.
_CREATED_AT = "1970-01-01T00:00:00Z"


def is_for_anthropic(request: Request) -> bool:
    """Return True if a request for a path that two APIs share comes from a client of Anthropic's API."""
    return "anthropic-version" in request.headers and request.scope["path"].startswith("/v1/models")


def model_info(offer: Offer) -> dict[str, Any]:
    """Return one model, with its context length as it is here."""
    model, context = offer.model, offer.context
    return {
        "id": model.name,
        "type": "model",
        "display_name": f"{model.name} (demo model: {offer.stand_in})" if offer.stand_in else model.name,
        "created_at": _CREATED_AT,
        "lifecycle": "active",
        "line": None,
        "max_input_tokens": context or model.context if isinstance(model, ChatModel) else None,
        "max_tokens": min(model.max_output, context or model.context) or None if isinstance(model, ChatModel) else None,
    }


def model_page(request: Request, offers: Sequence[Offer]) -> dict[str, Any]:
    """Return a page of the chat models: `limit` of them, after `after_id` or before `before_id`."""
    offered = [
        offer for offer in offers if isinstance(offer.model, ChatModel) and not isinstance(offer.model, EmbeddingModel)
    ]
    query = request.query_params
    limit = _limit(query.get("limit"))
    names = [offer.model.name for offer in offered]
    after, before = query.get("after_id"), query.get("before_id")
    if after is not None and before is not None:
        raise InvalidRequest("Send after_id or before_id, but not both", param="before_id")
    if after is not None:
        page = offered[_place(names, after, "after_id") + 1 :]
        has_more, page = len(page) > limit, page[:limit]
    elif before is not None:
        page = offered[: _place(names, before, "before_id")]
        has_more, page = len(page) > limit, page[-limit:]
    else:
        has_more, page = len(offered) > limit, offered[:limit]
    return {
        "data": [model_info(offer) for offer in page],
        "has_more": has_more,
        "first_id": page[0].model.name if page else None,
        "last_id": page[-1].model.name if page else None,
    }


def _limit(text: str | None) -> int:
    if text is None:
        return _DEFAULT
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:10]) <= _MOST:
        raise InvalidRequest(f"limit must be a whole number from 1 to {_MOST}", param="limit")
    return int(text)


def _place(names: list[str], name: str, field: str) -> int:
    if name not in names:
        raise InvalidRequest(f"{field} must be the id of a model in this list", param=field)
    return names.index(name)
