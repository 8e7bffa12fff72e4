"""Every form of paid request meets every rule of a key, also when it is a replay or its first engine fails.

The forms come from the OpenAPI document: a new one without an example here fails the first test. The rules come from
`KeyRules`: a new field without a rule here fails the second.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import requests
from msgspec.structs import fields

from minitoolai.accounts import keys as account_service
from minitoolai.api.openapi import describe
from minitoolai.core.clock import SystemClock
from minitoolai.core.models import UNRESTRICTED, KeyRules, RateLimits
from minitoolai.paths import load_secret_keys
from minitoolai.storage.tables import accounts
from minitoolai.storage.tables.ledger import broken_invariants
from tests.support.pictures import encoded, picture
from tests.support.recordings import tone
from tests.support.server import Account, ServerProcess
from tests.support.waiting import eventually

TEXT = """
[chat.{name}]
input = "0.15"
output = "0.60"
context = 8192
max_output = 4096
engines = {engines}

[embedding.vectors-{name}]
input = "0.02"
context = 512
engines = {engines}
"""
FAKE = """
[engines.quick]
kind = "fake"
model = "fake-1"
tokens = 16
"""
#: Catalog of the second server, which the fallback uses as its upstream.
FAR = FAKE + TEXT.format(name="fallback", engines='["quick"]')


def catalog(far_url: str) -> str:
    """Return each kind of model by a fake engine, and text models whose first upstream cannot be reached."""
    upstreams = "".join(
        f'\n[engines.{name}]\nkind = "upstream"\npublic_name = "{name}"\nbase_url = "{url}"\ncooldown_after = 0\n'
        for name, url in {"nowhere": "http://127.0.0.1:9/v1", "far": far_url}.items()
    )
    kinds = """
[speech.teller]
price = "15.00"
max_characters = 2000
voice = "tone"
voices = [{ id = "tone", engine = "quick", language = "*", licence = "CC0-1.0" }]

[image.painter]
price = "0.0015"
engines = ["quick"]

[transcription.hearer]
price = "0.006"
translates = true
engines = ["quick"]
"""
    direct, fallback = '["quick"]', '["nowhere", "far"]'
    models = TEXT.format(name="direct", engines=direct) + TEXT.format(name="fallback", engines=fallback)
    return FAKE + upstreams + kinds + models


#: Path → its smallest request. The model names stand for both ways in which an engine is found.
EXAMPLES: dict[str, dict[str, Any]] = {
    "/api/chat-completions/": {"model": "*", "messages": [{"role": "user", "content": "hi"}]},
    "/v1/chat/completions": {"model": "*", "messages": [{"role": "user", "content": "hi"}]},
    "/v1/completions": {"model": "*", "prompt": "hi"},
    "/v1/responses": {"model": "*", "input": "hi"},
    "/v1/messages": {"model": "*", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]},
    "/v1/embeddings": {"model": "vectors-*", "input": "hi"},
    "/api/texttospeech/": {"model": "teller", "input": "hi", "response_format": "wav"},
    "/v1/audio/speech": {"model": "teller", "input": "hi", "response_format": "wav"},
    "/v1/audio/transcriptions": {"model": "hearer"},
    "/v1/audio/translations": {"model": "hearer"},
    "/api/texttoimage/": {"model": "painter", "prompt": "hi", "width": 256, "height": 256, "steps": 1},
    "/v1/images/generations": {"model": "painter", "prompt": "hi", "size": "256x256", "steps": 1},
    "/api/imagetoimage/": {"model": "painter", "prompt": "hi", "steps": 1},
    "/v1/images/edits": {"model": "painter", "prompt": "hi", "steps": 1},
    "/v1/images/variations": {"model": "painter", "steps": 1},
}


#: Paths that take a multipart form with a recording, or with an image.
FORMS_WITH_FILES = {"/v1/audio/transcriptions": "file", "/v1/audio/translations": "file"} | dict.fromkeys(
    ("/api/imagetoimage/", "/v1/images/edits", "/v1/images/variations"), "image"
)
#: Path → fields that make another form of it.
VARIANTS: dict[str, list[dict[str, Any]]] = {"/v1/responses": [{"background": True}, {"store": False}]}

#: Costs nothing. tests/test_threats.py shows that the rules of the key apply.
FREE = {"/v1/messages/count_tokens"}


@dataclass(frozen=True)
class Form:
    """A path with one request."""

    path: str
    body: dict[str, Any]

    def __str__(self) -> str:
        how = " streamed" if self.body.get("stream") else ""
        how += " in the background" if self.body.get("background") else ""
        how += " not stored" if self.body.get("store") is False else ""
        return f"{self.path} {self.body['model']}{how}"


def described_forms() -> dict[str, set[str]]:
    """Return the path of every operation that needs a key and takes a body → the fields of that body."""
    document = describe()
    found = {}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if not isinstance(operation, dict) or "requestBody" not in operation:
                continue
            if not operation.get("security", document["security"]):
                continue
            content = next(iter(operation["requestBody"]["content"].values()))
            schema = content["schema"]
            if "$ref" in schema:
                schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
            found[path] = set(schema["properties"])
    return found


def forms() -> Iterator[Form]:
    """Yield every form with both kinds of models, whole and streamed where its schema says so."""
    for path, names in described_forms().items():
        example = EXAMPLES.get(path)
        if example is None:
            continue
        for model in ("direct", "fallback") if "*" in example["model"] else ("",):
            for stream in (False, True) if "stream" in names else (None,):
                body = example | {"model": example["model"].replace("*", model)}
                yield Form(path, body if stream is None else body | {"stream": stream})
            for variant in VARIANTS.get(path, ()):
                yield Form(path, example | variant | {"model": example["model"].replace("*", model)})


def test_every_form_has_an_example() -> None:
    assert set(EXAMPLES) == set(described_forms()) - FREE


# ── rules ─────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Rule:
    """A rule that refuses a request, and whether it also refuses a replay, which costs nothing."""

    code: str
    status: int
    rules: KeyRules = UNRESTRICTED
    refuses_replay: bool = True
    #: Run before the request: use something up, or change the key.
    prepare: Callable[[Account], object] = lambda account: None


def revoke(account: Account) -> None:
    key_id = account.key.split("-")[2]
    account.server.write(lambda c: accounts.revoke_key(c, key_id, SystemClock().now_ms()))


def look(account: Account) -> None:
    requests.get(f"{account.server.url}/api/balance", headers=account.headers, timeout=20)


def work(account: Account) -> None:
    """Let the key pay for something, and wait for the charge."""
    response = requests.post(
        f"{account.server.url}/v1/chat/completions", json=EXAMPLES["/v1/chat/completions"] | {"model": "direct"},
        headers=account.headers, timeout=60,
    )  # fmt: skip
    assert response.status_code == 200, response.text
    account.settled()


RULES = {
    "models": Rule("model_not_allowed", 403, KeyRules(models=("another",))),
    "allow_ip": Rule("address_not_allowed", 403, KeyRules(allow_ip=("192.0.2.1",))),
    "expires_ms": Rule("key_expired", 401, KeyRules(expires_ms=1)),
    "budget_daily": Rule("budget_exceeded", 402, KeyRules(budget_daily=1), refuses_replay=False),
    "budget_monthly": Rule("budget_exceeded", 402, KeyRules(budget_monthly=1), refuses_replay=False),
    "budget_total": Rule("budget_exceeded", 402, KeyRules(budget_total=1), refuses_replay=False),
    "rate.requests_per_minute": Rule(
        "rate_limit_exceeded", 429, KeyRules(rate=RateLimits(requests_per_minute=1)), prepare=look
    ),
    "rate.dollars_per_minute": Rule(
        "rate_limit_exceeded", 429, KeyRules(rate=RateLimits(dollars_per_minute=1)), refuses_replay=False, prepare=work
    ),
    "revoked": Rule("invalid_api_key", 401, prepare=revoke),
    "balance": Rule("insufficient_balance", 402, refuses_replay=False),
}
#: Rules that depend on time or on the kind of request, and the test that shows each.
TESTED_ELSEWHERE = {
    "rate.tokens_per_minute": "tests/api/test_limits.py",
    "rate.streams": "tests/api/test_limits.py",
    # Not a rule of requests: it hides the key from the customer's list.
    "for_pages": "tests/portal/pages/studio/test_playground.py",
}


def test_every_rule_of_a_key_is_in_the_matrix() -> None:
    known = {field.name for field in fields(KeyRules)} - {"rate"} | {
        f"rate.{field.name}" for field in fields(RateLimits)
    }
    assert known == (set(RULES) | set(TESTED_ELSEWHERE)) - {"revoked", "balance"}


# ── the matrix ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("far"), catalog=FAR) as far:
        environment = {"MINITOOLAI_FAR_API_KEY": far.account().key, "MINITOOLAI_NOWHERE_API_KEY": "none"}
        text = catalog(f"{far.url}/v1")
        with ServerProcess(tmp_path_factory.mktemp("matrix"), catalog=text, env=environment) as started:
            yield started
            assert started.read(broken_invariants) == {}


_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def payer(server: ServerProcess) -> Account:
    """A customer with money and a key without rules."""
    return server.account()


def with_rules(account: Account, rules: KeyRules) -> Account:
    """Return the same customer with another key."""
    key = account_service.make_key(account.id, "ruled", load_secret_keys(account.server.settings), SystemClock(), rules)
    account.server.write(lambda connection: accounts.insert_key(connection, key.row))
    return Account(account.server, account.id, account.email, key.text)


def example_file(path: str) -> dict[str, tuple[str, bytes]]:
    """Return the file of a form."""
    field = FORMS_WITH_FILES[path]
    return {field: ("a.wav", tone(1)) if field == "file" else ("a.png", encoded(picture(256, 256)))}


def send(account: Account, form: Form, key: str = "") -> requests.Response:
    headers = account.headers | ({"idempotency-key": key} if key else {})
    url = account.server.url + form.path
    if form.path in FORMS_WITH_FILES:
        fields = {name: str(value).lower() if isinstance(value, bool) else value for name, value in form.body.items()}
        return requests.post(url, data=fields, files=example_file(form.path), headers=headers, timeout=60)
    return requests.post(url, json=form.body, headers=headers, timeout=60)


#: Anthropic's format has a type for each status instead of our codes.
ANTHROPIC_TYPES = {
    401: "authentication_error", 402: "billing_error", 403: "permission_error", 429: "rate_limit_error",
}  # fmt: skip


def code_of(response: requests.Response, expected: str) -> str:
    """Return the code of an error, or `expected` if a response in Anthropic's format has the type for its status."""
    body = response.json()
    if body.get("type") == "error":
        return (
            expected if body["error"]["type"] == ANTHROPIC_TYPES[response.status_code] else str(body["error"]["type"])
        )
    return str(body["code"] if "code" in body else body["error"]["code"])


def work_of(account: Account) -> list[Any]:
    """Return all paid work of this key, in whatever state."""
    key_id = account.key.split("-")[2]
    rows: list[Any] = account.server.read(lambda c: c.execute("SELECT id FROM holds WHERE key_id = ?", (key_id,)))
    return rows


FORMS = list(forms())


@pytest.fixture(scope="module")
def recorded(payer: Account) -> dict[str, tuple[str, requests.Response]]:
    """Return form → the Idempotency-Key and the response of a request that was served, by the key without rules."""
    found = {}
    for form in FORMS:
        key = f"recorded-{next(_numbers)}"
        response = send(payer, form, key)
        assert response.status_code == 200, (form, response.text)
        found[str(form)] = key, response
    eventually(lambda: payer.money().held == 0, within_s=30)
    return found


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_form_without_rules_is_served_and_charged_once(
    recorded: dict[str, tuple[str, requests.Response]], payer: Account, form: Form
) -> None:
    key, first = recorded[str(form)]
    before = payer.money()
    again = send(payer, form, key)
    assert (again.status_code, again.content) == (200, first.content)
    assert again.headers["idempotent-replayed"] == "true"
    assert payer.money() == before
    name = first.headers.get("x-generation-id")
    if name and "fallback" in form.body["model"]:
        shown = requests.get(f"{payer.server.url}/v1/generations/{name}", headers=payer.headers, timeout=20).json()
        assert shown["engine"] == "far", shown


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_rule_refuses_the_form_and_nothing_is_charged(
    recorded: dict[str, tuple[str, requests.Response]], payer: Account, form: Form, name: str
) -> None:
    rule = RULES[name]
    owner = payer if name != "balance" else payer.server.account(None)
    ruled = with_rules(owner, rule.rules)
    rule.prepare(ruled)
    before, work_before = owner.money(), work_of(ruled)
    for key in ("", f"refused-{next(_numbers)}"):
        refused = send(ruled, form, key)
        assert (refused.status_code, code_of(refused, rule.code)) == (rule.status, rule.code), refused.text
        assert "idempotent-replayed" not in refused.headers
    assert work_of(ruled) == work_before
    assert owner.money() == before
    if owner is payer:
        key, first = recorded[str(form)]
        replay = send(ruled, form, key)
        if rule.refuses_replay:
            assert (replay.status_code, code_of(replay, rule.code)) == (rule.status, rule.code), replay.text
        else:
            assert (replay.status_code, replay.content) == (200, first.content)
        assert work_of(ruled) == work_before
        assert owner.money() == before


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_an_account_without_balance_still_gets_its_replay(server: ServerProcess, form: Form) -> None:
    account = server.account()
    key = f"spent-{next(_numbers)}"
    first = send(account, form, key)
    assert first.status_code == 200
    eventually(lambda: account.money().held == 0, within_s=30)
    left = account.money().posted
    server.write(lambda c: c.execute("UPDATE accounts SET posted = 0 WHERE id = ?", (account.id,)))
    try:
        refused = send(account, form, f"{key}-new")
        assert (refused.status_code, code_of(refused, "insufficient_balance")) == (402, "insufficient_balance")
        replay = send(account, form, key)
        assert (replay.status_code, replay.content) == (200, first.content)
    finally:
        server.write(lambda c: c.execute("UPDATE accounts SET posted = ? WHERE id = ?", (left, account.id)))
