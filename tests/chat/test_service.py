"""Unit tests of chat/service.py: capability checks, output limits, and the draining of cancelled responses."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from minitoolai.billing.charging import Reservation
from minitoolai.chat.service import (
    MAX_DRAINING,
    MAX_SUGGESTIONS,
    ChatService,
    accepts_images,
    check_capabilities,
    output_limit,
)
from minitoolai.core.catalog.catalog import Catalog, ChatModel, EngineEntry, ImageTokens
from minitoolai.core.catalog.prices import Prices
from minitoolai.core.errors import ContextExceeded, InvalidRequest, RateLimited
from minitoolai.core.in_flight import InFlight
from minitoolai.core.inference import ChatRequest, Usage
from minitoolai.core.models import Caller
from minitoolai.engines.chat.fake import FakeEngine
from tests.support.books import FixedClock

VISION = ImageTokens(low=85, high=1445)


class Blind(FakeEngine):
    """Engine that supports neither images nor `seed`."""

    vision = False

    def unsupported_field(self, request: ChatRequest) -> str | None:
        return "seed" if "seed" in request.fields else None


def model(name: str, engine: str, image_tokens: ImageTokens | None = None) -> ChatModel:
    return ChatModel(name, Prices.of_nano(150, 600), 1000, 400, (engine,), image_tokens)


def request(*, images: bool = False, limit: int | None = None, is_default: bool = False, **fields: Any) -> ChatRequest:
    return ChatRequest(
        "text", [], fields, stream=False, include_usage=False, limit=limit, images=["auto"] if images else [],
        limit_is_default=is_default,
    )  # fmt: skip


class Meters:
    """Collaborator that these tests do not use."""

    meters = None


def service(*models: ChatModel, costs: dict[tuple[str, str], Prices] | None = None) -> ChatService:
    entry = EngineEntry(kind="fake", model="fake-1")
    engines = {"full": FakeEngine("full", entry), "blind": Blind("blind", entry)}
    catalog = Catalog(dict.fromkeys(engines, entry), {one.name: one for one in models}, upstream_costs=costs or {})
    unused: Any = Meters()
    return ChatService(
        catalog, engines, unused, FixedClock(), unused, first_token_timeout_s=5.0, total_timeout_s=60.0,
        image_inputs=unused,
    )  # fmt: skip


def refusal(chats: ChatService, asked: ChatRequest, name: str) -> InvalidRequest:
    chosen = chats.catalog.chat[name]
    engine = chats.engine_for(chosen)
    assert engine is not None
    with pytest.raises(InvalidRequest) as caught:
        check_capabilities(asked, chosen, engine, chats)
    return caught.value


def test_images_need_a_model_and_an_engine_that_accept_them() -> None:
    chats = service(model("text", "full"), model("sighted", "full", VISION), model("unlucky", "blind", VISION))
    accepted = {}
    for name, one in chats.catalog.chat.items():
        engine = chats.engine_for(one)
        assert engine is not None
        accepted[name] = accepts_images(one, engine)
    assert accepted == {"text": False, "sighted": True, "unlucky": False}


@pytest.mark.parametrize(
    ("name", "reason"),
    [("text", "text cannot see images"), ("unlucky", "is served here by an engine that cannot see images")],
)
def test_a_refusal_of_images_suggests_the_models_that_accept_them(name: str, reason: str) -> None:
    chats = service(model("text", "full"), model("sighted", "full", VISION), model("unlucky", "blind", VISION))
    error = refusal(chats, request(images=True), name)
    assert error.param == "messages"
    assert reason in error.message
    assert "or use a model that can: sighted" in error.message
    assert "or use a model that can: sighted, " not in error.message.split(", or have")[0]


def test_an_unsupported_field_is_named_with_at_most_five_other_models() -> None:
    others = [model(f"other-{number}", "full") for number in range(MAX_SUGGESTIONS + 2)]
    error = refusal(service(model("text", "blind"), *others), request(seed=1), "text")
    assert error.param == "seed"
    assert error.message.endswith("other-0, other-1, other-2, other-3, other-4 and 2 more")


def test_a_refusal_says_so_if_no_model_supports_the_field() -> None:
    error = refusal(service(model("text", "blind")), request(seed=1), "text")
    assert error.message.endswith("leave it out; no model here can at the moment")


def test_an_explicit_limit_above_the_models_maximum_is_refused() -> None:
    chats = service(model("text", "full"))
    error = refusal(chats, request(limit=401), "text")
    assert (error.param, "at most 400" in error.message) == ("max_completion_tokens", True)
    engine = chats.engine_for(chats.catalog.chat["text"])
    assert engine is not None
    check_capabilities(request(limit=401, is_default=True), chats.catalog.chat["text"], engine, chats)


@pytest.mark.parametrize(
    ("limit", "is_default", "context", "prompt", "expected"),
    [
        (None, True, None, 100, 400),
        (50, False, None, 100, 50),
        (1000, True, None, 100, 400),
        (None, True, None, 900, 100),
        (300, True, None, 900, 100),
        (100, False, None, 900, 100),
        (None, True, 500, 300, 200),
        (None, True, 500, None, 400),
        (None, True, None, 999, 1),
    ],
)
def test_the_output_limit_fits_model_context_and_request(
    limit: int | None, is_default: bool, context: int | None, prompt: int | None, expected: int
) -> None:
    asked = request(limit=limit, is_default=is_default)
    assert output_limit(asked, model("text", "full"), context, prompt) == expected


@pytest.mark.parametrize(("limit", "prompt"), [(None, 1000), (101, 900), (1, 5000)])
def test_a_prompt_that_leaves_too_little_room_is_refused(limit: int | None, prompt: int) -> None:
    with pytest.raises(ContextExceeded) as caught:
        output_limit(request(limit=limit), model("text", "full"), None, prompt)
    assert caught.value.param == "messages"
    assert f"{prompt} tokens" in caught.value.message


def test_the_upstream_cost_is_known_only_for_priced_pairs_of_engine_and_model() -> None:
    chats = service(model("text", "full"), costs={("full", "text"): Prices.of_nano(2, 3)})
    assert chats.upstream_cost("text", "full", Usage(10, 100)) == 320
    assert chats.upstream_cost("text", "blind", Usage(10, 100)) is None


def test_an_engines_own_timeouts_take_precedence() -> None:
    chats = service()
    engine = chats.engines["full"]
    assert chats.timeouts(engine) == (5.0, 60.0)
    engine.first_token_timeout_s, engine.total_timeout_s = 1.5, 7.0  # type: ignore[misc]
    assert chats.timeouts(engine) == (1.5, 7.0)


def test_an_account_with_too_many_abandoned_responses_has_to_wait_until_they_end() -> None:
    class Run:
        name = "gen-1"
        reservation = Reservation(1, 7, 100, 16, 150, 600, "chat", "text")

    async def work() -> None:
        chats, over = service(model("text", "full")), asyncio.Event()
        chats.in_flight = InFlight(FixedClock())

        async def drain() -> None:
            await over.wait()

        for _ in range(MAX_DRAINING):
            with pytest.raises(AttributeError):
                # The service here has no ledger, so a request that is let through fails at its hold.
                await chats.begin(Caller(7, "key"), request())
            chats.in_background(Run(), drain(), is_drain=True)  # type: ignore[arg-type]
        with pytest.raises(RateLimited) as refused:
            await chats.begin(Caller(7, "key"), request())
        assert refused.value.retry_after_s
        with pytest.raises(AttributeError):
            await chats.begin(Caller(8, "key"), request())
        over.set()
        await asyncio.sleep(0.01)
        with pytest.raises(AttributeError):
            await chats.begin(Caller(7, "key"), request())

    asyncio.run(work())
