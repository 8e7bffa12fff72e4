"""Tests of invalid image requests: wrong fields, signatures and links are refused, named and never charged."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests

from minitoolai.engines.sampling import SCHEDULERS
from tests.support.ask import check_refusal
from tests.support.server import Account
from tests.support.studio_http import (
    CREDIT,
    POLL,
    PRICE,
    SUBMIT,
    check_image_refusal,
    generate,
    job,
    poll,
    submit,
    wait,
)

WRONG_TYPES: list[Any] = [True, "4", [4], {"a": 4}, 4.5]
NOT_TEXT: list[Any] = [True, 4, ["a"], {"a": "b"}]

#: Field, value, and what the message must contain besides the field.
REFUSED: list[tuple[str, Any, str]] = [
    *(("steps", value, "whole number from 1 to 8") for value in WRONG_TYPES),
    ("steps", 0, "at least 1"),
    ("steps", 9, "at most 8"),
    ("steps", -1, "at least 1"),
    ("steps", 10**400, "at most 8"),
    *(("width", value, "whole number from 256 to 1344") for value in WRONG_TYPES),
    *(("height", value, "whole number from 256 to 1344") for value in WRONG_TYPES),
    ("width", 255, "at least 256"),
    ("width", 1345, "at most 1344"),
    ("height", 0, "at least 256"),
    ("height", 100_000, "at most 1344"),
    *(("cfgScale", value, "number from 1 to 7") for value in (True, "2", [2], {})),
    ("cfgScale", 0.99, "from 1 to 7"),
    ("cfgScale", 7.01, "from 1 to 7"),
    ("cfgScale", 10**400, "from 1 to 7"),
    *(("seed", value, "whole number") for value in WRONG_TYPES),
    ("seed", -2, "at least -1"),
    ("seed", 2**32, "at most 4294967295"),
    *(("scheduler", value, "none of the 18") for value in (4, True, [], {}, "", "DDIM", "DPM++ 3M SDE", "Karras")),
    *(("negativePrompt", value, "string") for value in NOT_TEXT),
    ("negativePrompt", "x" * 8001, "8,001 characters"),
    *(("prompt", value, "describes the image") for value in (*NOT_TEXT, None, "", "  \n\t")),
    ("prompt", "x" * 100_000, "100,000 characters; shorten it to 8,000"),
    ("prompt", "a\0b", "NUL"),
    *(("model", value, "non-empty string") for value in (*NOT_TEXT, None, "")),
    *(("webhook_url", value, "non-empty string") for value in (*NOT_TEXT, "")),
    ("webhook_url", "ftp://example.com/", "https://"),
    ("webhook_url", "example.com/hook", "https://"),
    ("webhook_url", "https://user:secret@example.com/", "user name"),
    ("webhook_url", "https://example.com/ä", "ASCII"),
    ("webhook_url", "https://example.com/" + "a" * 2000, "2000 ASCII characters"),
    ("webhook_url", "https://[::1", "URL"),
    ("negative_prompt", "blurry", "the nearest are negativePrompt"),
    ("cfg_scale", 2, "the nearest is cfgScale"),
    ("n", 4, "not a field"),
]


@pytest.mark.parametrize(("field", "value", "says"), REFUSED, ids=[f"{c[0]}={str(c[1])[:20]!r}" for c in REFUSED])
def test_a_wrong_field_is_named_and_not_charged(account: Account, field: str, value: Any, says: str) -> None:
    answer = submit(account, **{field: value})
    code = "url_not_allowed" if field == "webhook_url" and isinstance(value, str) and value else "invalid_request"
    code = "string_above_max_length" if "characters" in says and field != "webhook_url" else code
    message = check_image_refusal(answer, 400, code, says)
    assert field in message
    assert account.money().held == 0


def test_refused_requests_leave_no_hold(account: Account) -> None:
    for fields in ({"steps": 9}, {"prompt": ""}, {"prompt": "nude child"}, {"model": "missing"}, {"model": "nothing"}):
        assert submit(account, **fields).status_code >= 400
    rows = account.server.read(lambda c: c.execute("SELECT id FROM holds WHERE account_id = ?", (account.id,)))
    assert rows == []
    assert account.money().posted == CREDIT


@pytest.mark.parametrize(("name", "nearest"), [("flatt", "flat"), ("SLOWE", "slow")])
def test_an_unknown_model_lists_the_nearest(account: Account, name: str, nearest: str) -> None:
    message = check_image_refusal(submit(account, model=name), 404, "model_not_found")
    assert nearest in message


def test_an_unknown_model_without_similar_names_lists_all(account: Account) -> None:
    message = check_image_refusal(submit(account, model="gpt-image-1"), 404, "model_not_found")
    assert "flat" in message
    assert "slow" in message


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("eulr A", "Euler a"), ("DPM++ 2M Karas", "DPM++ 2M Karras"), ("DPM3a Karras", "DPM2 a Karras")],
)
def test_an_unknown_scheduler_lists_the_nearest(account: Account, name: str, nearest: str) -> None:
    assert nearest in check_image_refusal(submit(account, scheduler=name), 400, "invalid_request", "scheduler")


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_is_accepted(account: Account, name: str) -> None:
    assert wait(account, job(account, scheduler=name, steps=1))["status"] == "success"


@pytest.mark.parametrize(
    "fields",
    [
        {"steps": 1},
        {"steps": 8},
        {"cfgScale": 1},
        {"cfgScale": 7},
        {"width": 256, "height": 1344},
        {"width": 1344, "height": 256},
        {"seed": 0},
        {"seed": 2**32 - 1},
        {"prompt": "x" * 8000, "negativePrompt": "y" * 8000},
        {"prompt": "雪 🌋 \u2028 ' \" \\ <lora:x:1> (a:1.2) [b] {c} BREAK\r\n", "negativePrompt": "é"},
    ],
    ids=", ".join,
)
def test_values_at_the_limits_are_accepted(account: Account, fields: dict[str, Any]) -> None:
    assert wait(account, job(account, **fields))["status"] == "success"
    assert account.settled() == CREDIT - PRICE


def test_a_model_without_a_ready_engine_names_the_reason(account: Account) -> None:
    answer = submit(account, model="missing")
    check_image_refusal(answer, 503, "overloaded", "missing is not available at the moment")
    assert answer.headers["retry-after"]


def test_a_prompt_that_the_policy_refuses_is_not_charged(account: Account) -> None:
    check_image_refusal(submit(account, prompt="a nude child"), 400, "content_policy", "nothing was charged")
    check_refusal(generate(account, prompt="a nude child"), 400, "content_policy", "prompt")
    assert account.money().posted == CREDIT


# ── bodies, methods, keys ─────────────────────────────────────────────────────────────────────────────────

BODIES = [
    (b"", 400, "invalid_json"),
    (b"{", 400, "invalid_json"),
    (b"[]", 400, "invalid_json"),
    (b"null", 400, "invalid_json"),
    (b'"text"', 400, "invalid_json"),
    (b'{"prompt": "\\ud800", "model": "flat"}', 400, "invalid_json"),
    (b"\xff\xfe", 400, "invalid_json"),
    (b"[" * 4_000, 400, "invalid_json"),
    (b'{"a":' * 70 + b"1" + b"}" * 70, 400, "invalid_json"),
    (b" " * (20 * 1024 * 1024 + 1), 413, "body_too_large"),
]


@pytest.mark.parametrize(("body", "status", "code"), BODIES, ids=[str(case[0][:20]) for case in BODIES])
@pytest.mark.parametrize("path", [SUBMIT, POLL])
def test_an_invalid_body_is_refused_in_the_format_of_the_contract(
    account: Account, path: str, body: bytes, status: int, code: str
) -> None:
    headers = {**account.headers, "content-type": "application/json"}
    check_image_refusal(requests.post(account.server.url + path, body, headers=headers, timeout=60), status, code)


def test_a_poll_has_4_kilobytes_and_a_job_more(account: Account) -> None:
    headers = {**account.headers, "content-type": "application/json"}
    deep = b"[" * 100_000
    check_image_refusal(
        requests.post(account.server.url + SUBMIT, deep, headers=headers, timeout=60), 400, "invalid_json"
    )
    answer = requests.post(account.server.url + POLL, deep, headers=headers, timeout=60)
    check_image_refusal(answer, 413, "body_too_large", "larger than 4 kB")


@pytest.mark.parametrize("path", [SUBMIT, POLL])
def test_another_content_type_is_refused(account: Account, path: str) -> None:
    headers = {**account.headers, "content-type": "application/x-www-form-urlencoded"}
    answer = requests.post(account.server.url + path, b"prompt=x", headers=headers, timeout=30)
    check_image_refusal(answer, 415, "unsupported_media_type", "application/json")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_another_method_is_refused(account: Account, method: str) -> None:
    for path in (SUBMIT, POLL):
        answer = requests.request(method, account.server.url + path, timeout=30)
        check_image_refusal(answer, 405, "method_not_allowed", "POST")
        assert answer.headers["allow"] == "POST"
    wrong = requests.post(f"{account.server.url}/api/texttoimage/jobs/1/events", json={}, timeout=30)
    check_image_refusal(wrong, 405, "method_not_allowed")
    check_image_refusal(requests.get(account.server.url + "/api/texttoimage/x/y", timeout=30), 404, "not_found")


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "sk-mt-x"}, {"authorization": "Bearer sk-mt-wrong"}, {"authorization": "Basic eDp5"}],
    ids=str,
)
def test_a_missing_or_wrong_key_is_refused(account: Account, headers: dict[str, str]) -> None:
    body = {"model": "flat", "prompt": "x"}
    answer = requests.post(account.server.url + SUBMIT, json=body, headers=headers, timeout=30)
    check_image_refusal(answer, 401, "invalid_api_key")
    assert answer.headers["www-authenticate"] == "Bearer"


# ── signatures ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_wrong_signature_and_an_unknown_job_give_the_same_response(account: Account) -> None:
    mine, yours = job(account), job(account.server.account())
    signature = mine["signature"]
    attempts = [
        {"jobid": mine["jobid"], "signature": yours["signature"]},
        {"jobid": yours["jobid"], "signature": signature},
        {"jobid": mine["jobid"], "signature": signature[:-1]},
        {"jobid": mine["jobid"], "signature": signature + "A"},
        {"jobid": mine["jobid"], "signature": signature.swapcase()},
        {"jobid": mine["jobid"], "signature": signature + "=="},
        {"jobid": mine["jobid"], "signature": ""},
        {"jobid": mine["jobid"], "signature": "é" * 22},
        {"jobid": mine["jobid"], "signature": "\0"},
        {"jobid": mine["jobid"], "signature": "x" * 4_000},
        {"jobid": mine["jobid"] + 1, "signature": signature},
        {"jobid": 0, "signature": signature},
        {"jobid": 2**53 - 1, "signature": signature},
        {"jobid": "0" * 16, "signature": signature},
    ]
    bodies = set()
    for attempt in attempts:
        answer = poll(account, attempt)
        check_image_refusal(answer, 404, "not_found")
        bodies.add(answer.text)
        url = f"{account.server.url}/api/texttoimage/jobs/{attempt['jobid']}"
        query = {"signature": attempt["signature"][:1000]}
        for other in (
            requests.delete(url, params=query, timeout=30),
            requests.get(url + "/events", params=query, timeout=30),
        ):
            assert (other.status_code, other.text) == (404, answer.text)
    assert len(bodies) == 1
    assert wait(account, mine)["status"] == "success"


@pytest.mark.parametrize(
    "jobid",
    [True, None, "abc", "12 ", "1.0", "-1", -1, 1.5, 2**53, "9" * 17, "", [1], {"a": 1}, 1e300, "１２"],
    ids=repr,
)
def test_an_invalid_jobid_is_named(account: Account, jobid: Any) -> None:
    check_image_refusal(poll(account, {"jobid": jobid, "signature": "x"}), 400, "invalid_request", "jobid")


@pytest.mark.parametrize("signature", [None, 5, True, ["x"]], ids=repr)
def test_an_invalid_signature_is_named(account: Account, signature: Any) -> None:
    check_image_refusal(poll(account, {"jobid": 5, "signature": signature}), 400, "invalid_request", "signature")


def test_a_missing_signature_in_a_query_is_explained(account: Account) -> None:
    url = f"{account.server.url}/api/texttoimage/jobs/5"
    check_image_refusal(requests.delete(url, timeout=30), 400, "invalid_request", "?signature=")
    check_image_refusal(requests.get(url + "/events", timeout=30), 400, "invalid_request", "?signature=")
    check_image_refusal(requests.delete(url + "x?signature=y", timeout=30), 400, "invalid_request", "jobid")


# ── links ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_modified_link_is_not_found(account: Account) -> None:
    one, two = (wait(account, job(account))["image_url"] for _ in range(2))
    wrong = [
        one[:-1],
        one + "A",
        one.partition("?")[0],
        one.partition("?")[0] + "?" + two.partition("?")[2],
        one.replace("expires=", "expires=1"),
        one.replace("expires=", "expires="),
        one.replace(".png", ".jpg"),
        one.replace(".png", ""),
        one.replace("/pictures/", "/pictures/..%2f"),
        one.replace("signature=", "signature=%00"),
    ]
    for url in wrong:
        if url == one:
            continue
        check_image_refusal(requests.get(url, timeout=30), 404, "not_found")
        assert requests.head(url, timeout=30).status_code == 404


def test_unexpected_values_never_cause_a_server_error(account: Account) -> None:
    values: list[Any] = [None, True, 0, -1, 1.5, 1e308, "", "x", [], {}, [[]], "\0", "\u2028", 2**63, -(2**63), 10**30]
    for field in ("model", "prompt", "negativePrompt", "scheduler", "steps", "cfgScale", "width", "height", "seed"):
        for value in values:
            body = {"model": "flat", "prompt": "x", "width": 256, "height": 256, field: value}
            data = json.dumps(body).encode()
            headers = {**account.headers, "content-type": "application/json"}
            answer = requests.post(account.server.url + SUBMIT, data, headers=headers, timeout=30)
            assert answer.status_code in (200, 400, 404), (field, value, answer.text)
            if answer.status_code == 200:
                wait(account, {key: answer.json()[key] for key in ("jobid", "signature")})
