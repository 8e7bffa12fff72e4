"""Read-only endpoints about the caller's account: balance, usage, generations; and the models and voices on offer."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, cast, get_args

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from minitoolai.api.anthropic_models import is_for_anthropic, model_info, model_page
from minitoolai.availability import Offer, Reports
from minitoolai.billing.usage import LAST_COLUMNS, last_values
from minitoolai.core.catalog.catalog import (
    ChatModel,
    EmbeddingModel,
    ImageModel,
    SpeechModel,
    VoiceEntry,
    suggest_names,
)
from minitoolai.core.catalog.prices import (
    APART,
    INPUT_BUCKETS,
    OUTPUT_BUCKETS,
    PICO_PER_NANO,
    PricedUnits,
    Prices,
    decode_parts,
)
from minitoolai.core.catalog.shop import Shop
from minitoolai.core.catalog.transcription import SECONDS_PER_MINUTE, TranscriptionModel
from minitoolai.core.clock import date_of, generation_name
from minitoolai.core.errors import InvalidRequest, ModelNotFound
from minitoolai.core.models import Caller, Generation, UsageRow
from minitoolai.core.money import format_dollars, format_pico
from minitoolai.http.auth import authenticate
from minitoolai.http.exports import csv_parts, export_response
from minitoolai.http.routing import json_response, reads
from minitoolai.http.validation import check_query
from minitoolai.images.request import LARGEST_SIDE, SMALLEST_SIDE
from minitoolai.storage.tables.reports import GroupBy

#: `created` of every model: OpenAI's clients require the field, and the catalog has no dates.
_CREATED_S = 1_700_000_000


async def _caller(request: Request) -> Caller:
    return await authenticate(request.scope, request.app.state.key_verifier)


def _reports(request: Request) -> Reports:
    return cast(Reports, request.app.state.reports)


@reads("/api/balance")
async def balance(request: Request) -> Response:
    """Return balance, held and available as decimal strings."""
    caller = await _caller(request)
    money, plan = await _reports(request).balance(caller), await _reports(request).plan(caller)
    shown: dict[str, Any] = {
        "balance": format_dollars(money.posted),
        "held": format_dollars(money.held),
        "available": format_dollars(money.available),
        "currency": "USD",
    }
    if plan is not None:
        shown["plan"] = {
            "name": plan.purse.plan,
            "credit": format_dollars(plan.purse.credit),
            "held": format_dollars(plan.purse.held),
            "available": format_dollars(max(0, min([plan.purse.available, *plan.room.values()]))),
            "ends_at": _iso(plan.purse.ends_ms),
            "windows": [
                {"window": window.kind, "available": format_dollars(max(0, room)), "ends_at": _iso(window.ends_ms)}
                for window, room in plan.room.items()
            ],
        }
    return json_response(shown)


@reads("/api/usage")
async def usage(request: Request) -> Response:
    """Return usage by day, model or key, as JSON or CSV."""
    caller = await _caller(request)
    query = request.query_params
    check_query(query, "from", "to", "group_by", "format")
    group_by = _choice(query, "group_by", get_args(GroupBy), "day")
    file_format = _choice(query, "format", ("json", "csv"), "json")
    now = datetime.fromtimestamp(_reports(request).now_ms() / 1000, UTC)
    until = _read_time(query, "to", default=now + timedelta(days=1), whole_day=True)
    start = _read_time(query, "from", default=now - timedelta(days=30), whole_day=False)
    if start >= until:
        raise InvalidRequest("from must be before to", param="from")
    rows = await _reports(request).usage(caller, _ms(start), _ms(until), cast(GroupBy, group_by))
    lines = [_usage_line(row, group_by) for row in rows]
    if file_format == "csv":
        columns = [group_by, "kind", "requests", "input_units", "output_units", "cost"]
        headers = {"content-disposition": f'attachment; filename="usage-by-{group_by}.csv"'}
        parts = csv_parts(
            [*columns, *LAST_COLUMNS],
            ([*(line[column] for column in columns), *last_values(row)] for line, row in zip(lines, rows, strict=True)),
        )
        return await export_response(parts, headers, "text/csv", is_head=request.method == "HEAD")
    total = format_dollars(sum(row.cost for row in rows))
    return json_response(
        {
            "object": "list",
            "from": start.isoformat(),
            "to": until.isoformat(),
            "group_by": group_by,
            "data": lines,
            "total_cost": total,
            "total_refunded": format_dollars(sum(row.refunded for row in rows)),
            "currency": "USD",
        }
    )


@reads("/v1/generations/{name}")
async def generation(request: Request) -> Response:
    """Return what one request used and cost, with its prices and attempts."""
    name = request.path_params["name"]
    reports = _reports(request)
    return json_response(_generation(await reports.generation(await _caller(request), name), reports))


@reads("/v1/models")
async def models(request: Request) -> Response:
    """List every model with its price and the engine that would serve it now, or in the format of Anthropic."""
    caller = await _caller(request)
    offers = _reports(request).offers(caller.price_group)
    if is_for_anthropic(request):
        return json_response(model_page(request, offers))
    shop = _reports(request).catalog.shop
    return json_response({"object": "list", "data": [_model(offer, shop) for offer in offers]})


@reads("/v1/models/{name:path}")
async def model(request: Request) -> Response:
    """Return one model. Names may contain slashes."""
    caller = await _caller(request)
    reports = _reports(request)
    offered, name = reports.models(caller.price_group), request.path_params["name"].strip("/")
    found = offered.get(name)
    if found is None:
        raise ModelNotFound(f"there is no model {name[:80]!r}; {suggest_names(name, offered)}", param="model")
    offer = reports.offer(found)
    return json_response(model_info(offer) if is_for_anthropic(request) else _model(offer, reports.catalog.shop))


@reads("/v1/audio/voices")
async def voices(request: Request) -> Response:
    """List the voices that can be used now, each with its language. Embedded voices also name engine and licence."""
    await _caller(request)
    reports = _reports(request)
    data = [_voice(voice, is_own=reports.catalog.engines[voice.engine].is_embedded) for voice in reports.voices()]
    return json_response({"object": "list", "data": data})


def _voice(voice: VoiceEntry, *, is_own: bool) -> dict[str, Any]:
    shown = {"id": voice.id, "object": "voice", "language": voice.language, "aliases": voice.aliases}
    return shown | {"engine": voice.engine, "licence": voice.licence} if is_own else shown


def _model(offer: Offer, shop: Shop) -> dict[str, Any]:
    """Return a model. The shop owns it: which supplier serves the model is the operator's to know."""
    shown: dict[str, Any] = {
        "id": offer.model.name,
        "object": "model",
        "created": _CREATED_S,
        "owned_by": shop.slug,
        "ready": offer.engine is not None,
        "demo": offer.stand_in is not None,
        **_details(offer),
    }
    if offer.stand_in is not None:
        # A shop with a name of its own leaves out that of the embedded model, which may contain this program's.
        name = "" if shop.is_own else f": {offer.stand_in}"
        shown["note"] = f"demo model{name}{', free of charge' if offer.is_free else ''}"
    return shown


def _details(offer: Offer) -> dict[str, Any]:
    model = offer.charged_model
    if isinstance(model, ImageModel):
        return _image_details(model)
    if isinstance(model, EmbeddingModel):
        return _embedding_details(model, offer.context or model.context)
    if isinstance(model, TranscriptionModel):
        return _transcription_details(model)
    if isinstance(model, SpeechModel):
        return _speech_details(model)
    return _chat_details(model, offer.context or model.context, offer.sees)


def _image_details(model: ImageModel) -> dict[str, Any]:
    sizes = {"smallest": f"{SMALLEST_SIDE}x{SMALLEST_SIDE}", "largest": f"{LARGEST_SIDE}x{LARGEST_SIDE}"}
    price: dict[str, Any] = {"image": format_dollars(model.price), "currency": "USD"}
    details: dict[str, Any] = {"kind": "image", "sizes": sizes, "price": price}
    if model.prices:
        price["images"] = [
            {"size": one.size or None, "quality": one.quality or None, "image": format_dollars(one.price)}
            for one in model.prices
        ]
    if model.qualities:
        details["qualities"] = list(model.qualities)
    if model.loras:
        details["loras"] = list(model.loras)
    return details


def _chat_details(model: ChatModel, context: int, sees: bool) -> dict[str, Any]:
    return {
        "kind": "chat",
        "context_length": context,
        "max_output_tokens": min(model.max_output, context),
        "vision": sees,
        "price": {
            **_token_prices(model.prices),
            "currency": "USD",
        },
    }


def _token_prices(prices: Prices) -> dict[str, Any]:
    """Return the input and output prices, those of buckets with a price of their own, and the tiers."""
    shown: dict[str, Any] = {
        "input_per_million": _per_million(prices.input),
        "output_per_million": _per_million(prices.output),
    }
    for names, usual in ((INPUT_BUCKETS, prices.input), (OUTPUT_BUCKETS, prices.output)):
        for name in names:
            if (price := getattr(prices, name)) != usual:
                shown[f"{name}_per_million"] = _per_million(price)
    if prices.request:
        shown["request"] = format_pico(prices.request)
    if prices.tiers:
        shown["tiers"] = [{"above_prompt_tokens": tier.above, **_token_prices(tier.prices)} for tier in prices.tiers]
    return shown


def _per_million(price: int) -> str:
    """Return a price in pico-dollars per token as dollars per million tokens."""
    return format_dollars(price * 1_000_000 // PICO_PER_NANO)


def _embedding_details(model: EmbeddingModel, context: int) -> dict[str, Any]:
    price = {"input_per_million": _per_million(model.prices.input), "currency": "USD"}
    return {"kind": "embedding", "context_length": context, "price": price}


def _speech_details(model: SpeechModel) -> dict[str, Any]:
    price = {"characters_per_million": format_dollars(model.price * 1_000_000), "currency": "USD"}
    return {"kind": "speech", "max_characters": model.max_characters, "voice": model.default_voice, "price": price}


def _transcription_details(model: TranscriptionModel) -> dict[str, Any]:
    return {
        "kind": "transcription",
        "formats": list(model.formats),
        "translates": model.translates,
        "max_seconds": model.max_seconds,
        "price": {"minute": format_dollars(model.price * SECONDS_PER_MINUTE), "currency": "USD"},
    }


def _generation(g: Generation, reports: Reports) -> dict[str, Any]:
    """Return a generation. An engine that the catalog gives no public name is None: the supplier stays unseen."""
    served = None if g.served_model is None else reports.stand_ins.shown_model(g.model, g.engine, g.served_model)
    return {
        "id": generation_name(g.id),
        "object": "generation",
        "kind": g.kind,
        "state": g.state,
        "model": g.model,
        "served_model": served,
        "demo": reports.stand_ins.is_stand_in(g.engine, g.model),
        "engine": reports.public_engine(g.engine),
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
        "cost_details": _cost_details(g),
        "cost": format_dollars(g.cost),
        "refunded": format_dollars(g.refunded),
        "held": format_dollars(g.held),
        "shortfall": format_dollars(g.shortfall),
        "currency": "USD",
        "error_code": g.error_code,
        "attempts": [one | {"engine": reports.public_engine(one["engine"])} for one in _attempts(g)],
    }


def _cost_details(g: Generation) -> list[dict[str, Any]]:
    """Return the units of each bucket with their exact price. Their sum, rounded up to nano-dollars, is the cost.

    If the cost exceeded the hold, `shortfall` was not charged.
    """
    if g.price_split is not None:
        parts = decode_parts(g.price_split)
    else:
        units = (("input", g.input_units, g.price_input), ("output", g.output_units, g.price_output))
        parts = [PricedUnits(name, count, price * PICO_PER_NANO) for name, count, price in units if count]
    return [
        {
            "bucket": part.bucket,
            "units": part.units,
            "price_per_unit": format_pico(part.price),
            "cost": format_pico(part.units * part.price),
        }
        for part in parts
    ]


def _attempts(g: Generation) -> list[dict[str, Any]]:
    """Return every attempt at an engine, in order. Usually there is one, and it is not stored apart."""
    if g.attempts is not None:
        attempts: list[dict[str, Any]] = msgspec.json.decode(g.attempts)
        return attempts
    took_ms = None if g.finished_ms is None else g.finished_ms - g.created_ms
    return [{"engine": g.engine, "error_code": g.error_code, "after_ms": 0, "took_ms": took_ms}]


def _usage_line(row: UsageRow, group_by: str) -> dict[str, Any]:
    group = row.group
    if group_by == "day":
        group = date_of(int(group))
    return {
        group_by: group,
        "kind": row.kind,
        "requests": row.requests,
        "input_units": row.input_units,
        "output_units": row.output_units,
        "cost": format_dollars(row.cost),
        "refunded": format_dollars(row.refunded),
        "buckets": [
            {"bucket": name, "units": row.buckets[name][0], "cost": format_dollars(row.buckets[name][1])}
            for name in APART
            if name in row.buckets
        ],
    }


def _choice(query: Mapping[str, str], name: str, allowed: tuple[str, ...], default: str) -> str:
    value = query.get(name, default)
    if value not in allowed:
        raise InvalidRequest(f"{name} must be one of {', '.join(allowed)}", param=name)
    return value


def _read_time(query: Mapping[str, str], name: str, *, default: datetime, whole_day: bool) -> datetime:
    """Read a date or a time from the query, in UTC unless it has an offset.

    `whole_day`: a date without a time means the end of that day.
    """
    text = query.get(name)
    if not text:
        return default
    try:
        moment = datetime.fromisoformat(text.replace(" ", "+"))
    except ValueError:
        raise InvalidRequest(f"{name} must be a date like 2026-01-31 or 2026-01-31T12:00:00Z", param=name) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    if whole_day and _is_date(text):
        try:
            moment += timedelta(days=1)
        except OverflowError:
            raise InvalidRequest(f"{name} is too far in the future", param=name) from None
    return moment


def _is_date(text: str) -> bool:
    """Return True if the text names a day and no time: 2026-01-31, 20260131 or 2026-W05-6."""
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _iso(ms: int | None) -> str | None:
    return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")
