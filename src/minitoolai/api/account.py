"""What a caller may ask of itself: its balance, its usage, what one request cost, what is on offer."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, cast, get_args

import msgspec
from litestar import Request, Response
from litestar.datastructures import State

from minitoolai.availability import Offer, Reports
from minitoolai.core.catalog import ChatModel, EmbeddingModel, ImageModel, SpeechModel, suggest_names
from minitoolai.core.clock import generation_name
from minitoolai.core.errors import InvalidRequest, ModelNotFound
from minitoolai.core.models import Caller, Generation, UsageRow
from minitoolai.core.money import format_dollars
from minitoolai.http.asgi import reads
from minitoolai.http.auth import authenticate
from minitoolai.images.request import LARGEST_SIDE, SMALLEST_SIDE
from minitoolai.storage.reports import GroupBy

#: A listing's fixed date of birth; OpenAI's clients want one.
_CREATED_S = 1_700_000_000


async def _caller(request: Request[Any, Any, State]) -> Caller:
    return await authenticate(request.scope, request.app.state.key_verifier)


def _reports(request: Request[Any, Any, State]) -> Reports:
    return cast(Reports, request.app.state.reports)


@reads("/api/balance")
async def balance(request: Request[Any, Any, State]) -> dict[str, str]:
    """Balance, held and available, as decimal strings."""
    money = await _reports(request).balance(await _caller(request))
    return {
        "balance": format_dollars(money.posted),
        "held": format_dollars(money.held),
        "available": format_dollars(money.available),
        "currency": "USD",
    }


@reads("/api/usage")
async def usage(request: Request[Any, Any, State]) -> Response[Any]:
    """Usage by day, model or key; JSON or CSV."""
    caller = await _caller(request)
    query = request.query_params
    for name in query:
        if len(query.getall(name)) > 1:
            raise InvalidRequest(f"{name[:64]} is sent more than once; send it once", param=name[:64])
    group_by = _choice(query, "group_by", get_args(GroupBy), "day")
    form = _choice(query, "format", ("json", "csv"), "json")
    now = datetime.fromtimestamp(_reports(request).now_ms() / 1000, UTC)
    until = _moment(query, "to", default=now + timedelta(days=1), whole_day=True)
    start = _moment(query, "from", default=now - timedelta(days=30), whole_day=False)
    if start >= until:
        raise InvalidRequest("from must lie before to", param="from")
    rows = await _reports(request).usage(caller, _ms(start), _ms(until), cast(GroupBy, group_by))
    lines = [_usage_line(row, group_by) for row in rows]
    if form == "csv":
        return _csv(lines, group_by)
    total = format_dollars(sum(row.cost for row in rows))
    return Response(
        {
            "object": "list",
            "from": start.isoformat(),
            "to": until.isoformat(),
            "group_by": group_by,
            "data": lines,
            "total_cost": total,
            "currency": "USD",
        }
    )


@reads("/v1/generations/{name:str}")
async def generation(request: Request[Any, Any, State], name: str) -> dict[str, Any]:
    """What one request cost, and why."""
    return _generation(await _reports(request).generation(await _caller(request), name))


@reads("/v1/models")
async def models(request: Request[Any, Any, State]) -> dict[str, Any]:
    """What is on offer, each with its price and engine."""
    await _caller(request)
    return {"object": "list", "data": [_model(offer) for offer in _reports(request).offers()]}


@reads("/v1/models/{name:path}")
async def model(request: Request[Any, Any, State], name: str) -> dict[str, Any]:
    """One of them."""
    await _caller(request)
    reports = _reports(request)
    offered = reports.models()
    found = offered.get(name.strip("/"))
    if found is None:
        raise ModelNotFound(
            f"there is no model {name.strip('/')[:80]!r}; {suggest_names(name.strip('/'), offered)}", param="model"
        )
    return _model(reports.offer(found))


def _model(offer: Offer) -> dict[str, Any]:
    return {
        "id": offer.model.name,
        "object": "model",
        "created": _CREATED_S,
        "owned_by": offer.engine or "nobody",
        "engine": offer.engine,
        "ready": offer.engine is not None,
        "why_not_ready": offer.why_not,
        **_facts(offer),
    }


def _facts(offer: Offer) -> dict[str, Any]:
    model = offer.model
    if isinstance(model, ImageModel):
        return _image_facts(model)
    if isinstance(model, EmbeddingModel):
        return _embedding_facts(model)
    return _speech_facts(model) if isinstance(model, SpeechModel) else _chat_facts(model, offer.sees)


def _image_facts(model: ImageModel) -> dict[str, Any]:
    sizes = {"smallest": f"{SMALLEST_SIDE}x{SMALLEST_SIDE}", "largest": f"{LARGEST_SIDE}x{LARGEST_SIDE}"}
    return {"kind": "image", "sizes": sizes, "price": {"image": format_dollars(model.price), "currency": "USD"}}


def _chat_facts(model: ChatModel, sees: bool) -> dict[str, Any]:
    return {
        "kind": "chat",
        "context_length": model.context,
        "max_output_tokens": model.max_output,
        "vision": sees,
        "price": {
            "input_per_million": format_dollars(model.price_input * 1_000_000),
            "output_per_million": format_dollars(model.price_output * 1_000_000),
            "currency": "USD",
        },
    }


def _embedding_facts(model: EmbeddingModel) -> dict[str, Any]:
    price = {"input_per_million": format_dollars(model.price_input * 1_000_000), "currency": "USD"}
    return {"kind": "embedding", "context_length": model.context, "price": price}


def _speech_facts(model: SpeechModel) -> dict[str, Any]:
    price = {"characters_per_million": format_dollars(model.price * 1_000_000), "currency": "USD"}
    return {"kind": "speech", "max_characters": model.max_characters, "voice": model.default_voice, "price": price}


def _generation(g: Generation) -> dict[str, Any]:
    return {
        "id": generation_name(g.id),
        "object": "generation",
        "kind": g.kind,
        "state": g.state,
        "model": g.model,
        "served_model": g.served_model,
        "engine": g.engine,
        "key_id": g.key_id,
        "created_at": _iso(g.created_ms),
        "finished_at": _iso(g.finished_ms),
        "time_to_first_token_ms": g.first_token_ms,
        "input_units": g.input_units,
        "output_units": g.output_units,
        "cached_input_units": g.cached_units,
        "estimated": g.estimated,
        "price_input_per_unit": format_dollars(g.price_input),
        "price_output_per_unit": format_dollars(g.price_output),
        "cost": format_dollars(g.cost),
        "held": format_dollars(g.held),
        "shortfall": format_dollars(g.shortfall),
        "currency": "USD",
        "error_code": g.error_code,
        "attempts": _attempts(g),
    }


def _attempts(g: Generation) -> list[dict[str, Any]]:
    """Every engine that was asked, in order; most often one."""
    if g.attempts is not None:
        attempts: list[dict[str, Any]] = msgspec.json.decode(g.attempts)
        return attempts
    took_ms = None if g.finished_ms is None else g.finished_ms - g.created_ms
    return [{"engine": g.engine, "error_code": g.error_code, "after_ms": 0, "took_ms": took_ms}]


def _usage_line(row: UsageRow, group_by: str) -> dict[str, Any]:
    group = row.group
    if group_by == "day":
        group = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=int(group))).date().isoformat()
    return {
        group_by: group,
        "kind": row.kind,
        "requests": row.requests,
        "input_units": row.input_units,
        "output_units": row.output_units,
        "cost": format_dollars(row.cost),
    }


def _csv(lines: list[dict[str, Any]], group_by: str) -> Response[Any]:
    text = io.StringIO()
    columns = [group_by, "kind", "requests", "input_units", "output_units", "cost"]
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(lines)
    headers = {"content-disposition": f'attachment; filename="usage-by-{group_by}.csv"'}
    return Response(text.getvalue(), media_type="text/csv", headers=headers)


def _choice(query: Mapping[str, str], name: str, allowed: tuple[str, ...], default: str) -> str:
    value = query.get(name, default)
    if value not in allowed:
        raise InvalidRequest(f"{name} must be one of {', '.join(allowed)}", param=name)
    return value


def _moment(query: Mapping[str, str], name: str, *, default: datetime, whole_day: bool) -> datetime:
    """A date or a time, UTC unless it says otherwise; a date as the end means the end of that day."""
    text = query.get(name)
    if not text:
        return default
    try:
        moment = datetime.fromisoformat(text.replace(" ", "+"))
    except ValueError:
        raise InvalidRequest(f"{name} must be a date like 2026-01-31 or 2026-01-31T12:00:00Z", param=name) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    if len(text) == 10 and whole_day:
        try:
            moment += timedelta(days=1)
        except OverflowError:
            raise InvalidRequest(f"{name} is too far in the future", param=name) from None
    return moment


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _iso(ms: int | None) -> str | None:
    return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")


@reads("/v1/audio/voices")
async def voices(request: Request[Any, Any, State]) -> dict[str, Any]:
    """Who can speak now, in which language, by which engine."""
    await authenticate(request.scope, request.app.state.key_verifier)
    reports = cast(Reports, request.app.state.reports)
    data = [
        {
            "id": voice.id,
            "object": "voice",
            "language": voice.language,
            "engine": voice.engine,
            "licence": voice.licence,
            "aliases": voice.aliases,
        }
        for voice in reports.voices()
    ]
    return {"object": "list", "data": data}
