"""`models` and `provider` of a request: another model takes over, engines are chosen, and the price is right."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests

from minitoolai.chat.preferences import take_preferences
from minitoolai.core.errors import InvalidRequest
from minitoolai.core.models import KeyRules
from minitoolai.storage.database import Connection
from tests.api.test_limits import with_rules
from tests.support import claude, manners
from tests.support.ask import HELLO, OPENAI, check_refusal, events, get, post, said, start
from tests.support.server import Account
from tests.support.stage import UpstreamsBehindServer
from tests.support.upstream import Behaviour, Exchange
from tests.support.waiting import eventually

ANSWER = "".join(manners.WORDS)
CREDIT = 5_000_000_000
#: Prices in nano-dollars per token.
PRICE = {"dear": (3000, 9000), "cheap": (100, 400), "quick": (1, 1)}


class House(UpstreamsBehindServer):
    """Three upstreams, two of which the operator has named, and the server in front of them."""

    COUNT = 3

    def catalog(self) -> str:
        more = "cooldown_after = 0\nretries = 0\nfirst_token_timeout_s = 1.0\n"
        text = f"""
[engines.alpha]
kind = "upstream"
base_url = "{self.a.base_url}"
public_name = "Acme"
total_timeout_s = 1.5
{more}
[engines.beta]
kind = "upstream"
base_url = "{self.b.base_url}"
public_name = "bolt"
{more}
[engines.claude]
kind = "anthropic"
base_url = "{self.c.base_url}"
{more}
[engines.secret]
kind = "upstream"
base_url = "{self.b.base_url}"
{more}
[engines.fake]
kind = "fake"
model = "fake-1"
"""
        models = {
            "dear": ("3", "9", 4096, ["alpha"]),
            "cheap": ("0.1", "0.4", 2048, ["beta"]),
            "both": ("1", "1", 4096, ["alpha", "beta"]),
            "native": ("2", "2", 4096, ["claude"]),
            "hidden": ("1", "1", 4096, ["secret"]),
            "quick": ("0.001", "0.001", 4096, ["fake"]),
        }
        for name, (price_in, price_out, most, engines) in models.items():
            listed = ", ".join(f'"{engine}"' for engine in engines)
            text += f'\n[chat.{name}]\ninput = "{price_in}"\noutput = "{price_out}"\ncontext = 8192\n'
            text += f"max_output = {most}\nengines = [{listed}]\n"
        for name, engine in (("vectors", "alpha"), ("vectors-2", "fake")):
            text += f'\n[embedding.{name}]\ninput = "1"\ncontext = 512\nengines = ["{engine}"]\n'
        return text


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House.running(tmp_path_factory.mktemp("house")) as house:
        yield house


@pytest.fixture
def house(opened: House) -> Iterator[House]:
    """Reset the upstreams. After each test, check that nothing is held and all invariants hold."""
    with opened.reset():
        opened.c.behave = claude.answer()
        yield opened


@pytest.fixture
def account(house: House) -> Account:
    return house.server.account()


def answer_as(model: str) -> Behaviour:
    """Answer as usual, with this model name."""

    async def behave(exchange: Exchange) -> None:
        if not exchange.body.get("stream"):
            exchange.answer(200, {**manners.completion(manners.WORDS), "model": model})
            return
        exchange.begin()
        for word in manners.WORDS:
            exchange.event({**manners.chunk({"content": word}), "model": model})
        exchange.event({**manners.chunk({}, finish="stop"), "model": model})
        exchange.event({**manners.head("chat.completion.chunk"), "choices": [], "usage": manners.usage(5)})
        exchange.event("[DONE]")
        exchange.end()

    return behave


def record(account: Account, answer: requests.Response) -> dict[str, Any]:
    account.settled()
    found: dict[str, Any] = get(account, f"/v1/generations/{answer.headers['x-generation-id']}").json()
    return found


def cost(model: str, prompt: int = manners.PROMPT_TOKENS, output: int = len(manners.WORDS)) -> int:
    price_in, price_out = PRICE[model]
    return prompt * price_in + output * price_out


def check_charged(account: Account, answer: requests.Response, model: str) -> dict[str, Any]:
    """Check that one generation was charged, at the price of this model. Return it."""
    generation = record(account, answer)
    assert (generation["model"], generation["state"]) == (model, "succeeded")
    assert generation["price_input_per_unit"] == f"{PRICE[model][0] / 1e9:.9f}"
    assert CREDIT - account.money().posted == round(float(generation["cost"]) * 1e9) == cost(model)
    assert len(account.server.transfers_of(answer.headers["x-generation-id"])) == 1
    (row,) = get(account, "/api/usage/", group_by="model").json()["data"]
    assert (row["model"], row["requests"], row["cost"]) == (model, 1, generation["cost"])
    return generation


FAILURES = {
    "500": manners.refuse(500),
    "400": manners.refuse(400, "this model's maximum context length is 10 tokens"),
    "429": manners.refuse(429, retry_after="30"),
    "hang": manners.hang_before_head,
    "hang after the role": manners.break_off("hang", words=("",)),
    "error after the role": manners.break_off("error", words=("",)),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("failure", FAILURES)
def test_the_next_model_answers_is_named_and_is_charged_at_its_own_price(
    house: House, account: Account, failure: str, stream: bool
) -> None:
    house.a.behave, house.b.behave = FAILURES[failure], answer_as("cheap")
    answer = post(account, OPENAI, model=None, models=["dear", "cheap"], stream=stream)
    assert answer.status_code == 200, answer.text
    if stream:
        found = events(answer.text)
        assert (said(found), found[-1]) == (ANSWER, "[DONE]")
        assert {event["model"] for event in found[:-1]} == {"cheap"}
    else:
        body = answer.json()
        assert (body["choices"][0]["message"]["content"], body["model"]) == (ANSWER, "cheap")
    generation = check_charged(account, answer, "cheap")
    tried = [(attempt["engine"], attempt["model"]) for attempt in generation["attempts"]]
    assert tried == [("Acme", "dear"), ("bolt", "cheap")]
    assert house.b.last.body["model"] == "cheap"


def test_a_dear_fallback_is_never_undercharged(house: House, account: Account) -> None:
    house.b.behave = manners.refuse(500)
    check_charged(account, post(account, OPENAI, models=["cheap", "dear"], model="cheap"), "dear")


def test_the_first_model_that_answers_is_the_only_one_asked(house: House, account: Account) -> None:
    generation = check_charged(account, post(account, OPENAI, model="dear", models=["cheap", "dear"]), "dear")
    assert [attempt["engine"] for attempt in generation["attempts"]] == ["Acme"]
    assert len(house.b.seen) == 0
    assert "models" not in house.a.last.body


def test_the_fallback_keeps_to_its_own_largest_output(house: House, account: Account) -> None:
    house.a.behave = manners.refuse(500)
    answer = post(account, OPENAI, models=["dear", "cheap"], model="dear")
    assert answer.status_code == 200
    assert house.b.last.body["max_completion_tokens"] == 2048


def test_a_model_that_cannot_serve_the_request_is_passed_over(house: House, account: Account) -> None:
    answer = post(account, OPENAI, models=["cheap", "dear"], model="cheap", max_tokens=4000)
    check_charged(account, answer, "dear")
    assert len(house.b.seen) == 0


def test_if_all_models_fail_the_last_error_is_returned_and_nothing_is_charged(house: House, account: Account) -> None:
    house.a.behave = house.b.behave = manners.refuse(500)
    for stream in (True, False):
        answer = post(account, OPENAI, models=["dear", "cheap"], model="dear", stream=stream)
        check_refusal(answer, 502, "upstream_error")
    assert account.settled() == CREDIT


def test_text_that_was_sent_is_never_followed_by_another_model(house: House, account: Account) -> None:
    house.a.behave = manners.break_off("error")
    answer = post(account, OPENAI, models=["dear", "cheap"], model="dear", stream=True)
    assert '"error"' in answer.text
    assert len(house.b.seen) == 0
    assert record(account, answer)["model"] == "dear"


def test_unknown_and_forbidden_models_are_refused_by_name(house: House, account: Account) -> None:
    answer = post(account, OPENAI, models=["cheap", "cheep"], model="cheap")
    assert "'cheep'" in check_refusal(answer, 404, "model_not_found", "model")
    ruled = with_rules(account, KeyRules(models=("cheap",)))
    answer = post(ruled, OPENAI, models=["cheap", "dear"], model="cheap")
    assert "dear" in check_refusal(answer, 403, "model_not_allowed", "model")
    assert post(ruled, OPENAI, model="cheap", provider={"sort": "price"}).status_code == 200


def test_a_replay_returns_the_answer_of_the_fallback(house: House, account: Account) -> None:
    house.a.behave, house.b.behave = manners.refuse(500), answer_as("cheap")
    body = {"models": ["dear", "cheap"], "messages": HELLO}
    headers = {**account.headers, "idempotency-key": "once"}
    answers = [requests.post(account.server.url + OPENAI, json=body, headers=headers, timeout=30) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert answers[0].json()["model"] == "cheap"
    check_charged(account, answers[0], "cheap")
    body["models"] = ["cheap"]
    assert requests.post(account.server.url + OPENAI, json=body, headers=headers, timeout=30).status_code == 422


def test_a_conversation_is_continued_by_one_of_several_models(house: House, account: Account) -> None:
    first = post(account, "/v1/responses", model="cheap", messages=None, input="One").json()["id"]
    more = {"models": ["dear", "cheap"], "input": "Two", "previous_response_id": first}
    answer = post(account, "/v1/responses", model=None, messages=None, **more)
    assert answer.status_code == 200, answer.text
    assert record(account, answer)["model"] == "dear"


@pytest.mark.parametrize("more", [{"provider": {"sort": "price"}}, {}])
def test_a_background_response_is_recorded_with_the_model_that_answers(
    house: House, account: Account, more: dict[str, Any]
) -> None:
    house.a.behave = manners.refuse(500)
    preferences = {"model": "dear", "models": ["cheap"], **more}
    answer = post(account, "/v1/responses", background=True, messages=None, input="hi", **preferences)
    assert answer.status_code == 200, answer.text
    assert check_charged(account, answer, "cheap")["engine"] == "bolt"


def test_a_fallback_that_is_killed_is_charged_and_named_as_itself(house: House, account: Account) -> None:
    house.a.behave, house.b.behave = manners.refuse(500), manners.answer(["word "] * 60, delay_s=0.5)
    with start(account, OPENAI, model="dear", models=["cheap"], stream=True) as answer:
        generation_id = answer.headers["x-generation-id"]
        eventually(lambda: house.server.read(_progress) > 0)
        house.server.kill()
    house.server.start()
    account.settled()
    generation = get(account, f"/v1/generations/{generation_id}").json()
    assert (generation["model"], generation["state"]) == ("cheap", "failed")
    assert generation["price_input_per_unit"] == f"{PRICE['cheap'][0] / 1e9:.9f}"
    assert 0 < CREDIT - account.money().posted < 10_000


def _progress(connection: Connection) -> int:
    return int(connection.execute("SELECT coalesce(max(progress), 0) FROM holds WHERE state = 'pending'")[0][0])


FORMS: dict[str, dict[str, Any]] = {
    "/api/chat-completions/": {"messages": HELLO, "stream": False},
    "/v1/completions": {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": HELLO, "max_tokens": 100},
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", FORMS)
def test_every_format_falls_back_to_another_model(house: House, account: Account, path: str, stream: bool) -> None:
    house.a.behave = manners.refuse(500)
    house.b.behave = manners.text(manners.WORDS) if path == "/v1/completions" else answer_as("cheap")
    body = {**FORMS[path], "models": ["dear", "cheap"], "stream": stream, "provider": {"allow_fallbacks": True}}
    answer = requests.post(account.server.url + path, json=body, headers=account.headers, timeout=30)
    assert answer.status_code == 200, answer.text
    assert "x-dropped-fields" not in answer.headers
    assert path == "/v1/completions" or '"cheap"' in answer.text
    assert '"dear"' not in answer.text
    assert record(account, answer)["model"] == "cheap"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("order", [["native", "cheap"], ["dear", "native"]])
def test_messages_change_between_native_and_translated_engines(
    house: House, account: Account, order: list[str], stream: bool
) -> None:
    house.a.behave = house.c.behave = manners.refuse(500)
    if order[1] == "native":
        house.c.behave = claude.answer()
    body = {"models": order, "messages": HELLO, "max_tokens": 100, "stream": stream, "thinking": {"type": "disabled"}}
    answer = requests.post(account.server.url + "/v1/messages", json=body, headers=account.headers, timeout=30)
    assert answer.status_code == 200, answer.text
    assert answer.text.count("message_start") == (2 if stream else 0)
    assert record(account, answer)["model"] == order[1]


def test_embeddings_fall_back_too(house: House, account: Account) -> None:
    house.a.behave = manners.refuse(500)
    body = {"models": ["vectors", "vectors-2"], "input": "hi"}
    answer = requests.post(account.server.url + "/v1/embeddings", json=body, headers=account.headers, timeout=30)
    assert answer.status_code == 200, answer.text
    assert record(account, answer)["model"] == "vectors-2"


# ── provider ──────────────────────────────────────────────────────────────────────────────────────────────


def asked(house: House) -> tuple[int, int]:
    """Return how many requests each of the two upstreams has received since the last call."""
    counts = len(house.a.seen), len(house.b.seen)
    house.a.seen.clear()
    house.b.seen.clear()
    return counts


def test_engines_are_ordered_allowed_and_ignored_by_their_public_names(house: House, account: Account) -> None:
    for provider, expected in (
        ({}, (1, 0)),
        ({"order": ["bolt"]}, (0, 1)),
        ({"order": ["nobody", "BOLT", "acme"]}, (0, 1)),
        ({"only": ["bolt"]}, (0, 1)),
        ({"ignore": ["acme"]}, (0, 1)),
        ({"order": ["bolt"], "ignore": ["bolt"]}, (1, 0)),
    ):
        assert post(account, OPENAI, model="both", provider=provider).status_code == 200, provider
        assert asked(house) == expected, provider


def test_without_fallbacks_only_the_chosen_engine_is_asked(house: House, account: Account) -> None:
    house.a.behave = house.b.behave = manners.refuse(500)
    for provider, expected in (
        ({}, (1, 1)),
        ({"allow_fallbacks": False}, (1, 0)),
        ({"order": ["bolt"], "allow_fallbacks": False}, (0, 1)),
    ):
        assert post(account, OPENAI, model="both", provider=provider).status_code == 502
        assert asked(house) == expected, provider


def test_an_engine_without_a_public_name_is_like_one_that_does_not_exist(house: House, account: Account) -> None:
    messages = set()
    for name in ("secret", "beta", "nobody"):
        answer = post(account, OPENAI, model="hidden", provider={"only": [name]})
        messages.add(check_refusal(answer, 400, "invalid_request", "provider.only"))
    assert len(messages) == 1
    assert post(account, OPENAI, model="hidden", provider={"order": ["secret"]}).status_code == 200


def test_the_cheapest_model_comes_first_if_asked_and_the_order_of_models_can_be_kept(
    house: House, account: Account
) -> None:
    fields = {"models": ["dear", "cheap"], "model": "dear"}
    for sort, expected in (
        ("price", "cheap"),
        ({"by": "price", "partition": "none"}, "cheap"),
        ({"by": "price"}, "dear"),
    ):
        answer = post(account, OPENAI, provider={"sort": sort}, **fields)
        assert record(account, answer)["model"] == expected


def test_the_engine_with_the_fastest_measured_first_token_comes_first(house: House, account: Account) -> None:
    house.a.behave = manners.answer(delay_s=0.05)
    for name in ("acme", "bolt"):
        for _ in range(3):
            post(account, OPENAI, model="both", stream=True, provider={"only": [name]})
    asked(house)
    post(account, OPENAI, model="both", provider={"sort": "latency"})
    assert asked(house) == (0, 1)
    house.b.behave = manners.answer(delay_s=0.2)
    for _ in range(12):
        post(account, OPENAI, model="both", stream=True, provider={"only": ["bolt"]})
    asked(house)
    post(account, OPENAI, model="both", provider={"sort": "latency"})
    assert asked(house) == (1, 0)


def test_models_above_the_maximum_price_are_not_used(house: House, account: Account) -> None:
    fields = {"models": ["dear", "cheap"], "model": "dear"}
    answer = post(account, OPENAI, provider={"max_price": {"prompt": "0.1", "completion": 0.4}}, **fields)
    check_charged(account, answer, "cheap")
    answer = post(account, OPENAI, provider={"max_price": {"completion": 0.39}}, **fields)
    assert "cheap" in check_refusal(answer, 400, "invalid_request", "provider.max_price")


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("models", [], "models"),
        ("models", "cheap", "models"),
        ("models", ["cheap", 4], "models[1]"),
        ("models", ["m"] * 9, "models"),
        ("provider", "bolt", "provider"),
        ("provider", {"data_collection": "deny"}, "provider.data_collection"),
        ("provider", {"order": "bolt"}, "provider.order"),
        ("provider", {"only": []}, "provider.only"),
        ("provider", {"ignore": [1]}, "provider.ignore[0]"),
        ("provider", {"allow_fallbacks": "no"}, "provider.allow_fallbacks"),
        ("provider", {"sort": "throughput"}, "provider.sort"),
        ("provider", {"sort": {"by": "speed"}}, "provider.sort.by"),
        ("provider", {"sort": {"by": "price", "partition": "x"}}, "provider.sort.partition"),
        ("provider", {"sort": {"by": "price", "partition": ""}}, "provider.sort.partition"),
        ("provider", {"sort": {"of": "price"}}, "provider.sort.of"),
        ("provider", {"max_price": 1}, "provider.max_price"),
        ("provider", {"max_price": {"image": 1}}, "provider.max_price.image"),
        ("provider", {"max_price": {"prompt": -1}}, "provider.max_price.prompt"),
        ("provider", {"max_price": {"prompt": True}}, "provider.max_price.prompt"),
        ("provider", {"max_price": {"prompt": "1e999999"}}, "provider.max_price.prompt"),
        ("provider", {"max_price": {"request": "NaN"}}, "provider.max_price.request"),
    ],
)
def test_an_invalid_preference_is_refused_by_name(field: str, value: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        take_preferences("cheap", {field: value})
    assert refusal.value.param == param


def test_null_preferences_are_absent() -> None:
    fields: dict[str, Any] = {"models": None, "provider": None, "other": 1}
    assert take_preferences("cheap", fields) is None
    assert fields == {"other": 1}
