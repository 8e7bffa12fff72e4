"""Tests of `/v1/images/generations` with OpenAI's own client and over plain HTTP."""

from __future__ import annotations

import base64
import io
import socket
import time

import openai
import pytest
import requests
from PIL import Image

from tests.support.ask import check_refusal
from tests.support.server import Account
from tests.support.studio_http import CREDIT, PRICE, generate
from tests.support.waiting import eventually


def client(account: Account) -> openai.OpenAI:
    return openai.OpenAI(api_key=account.key, base_url=account.server.url + "/v1", max_retries=0)


def states(account: Account) -> list[str]:
    rows = account.server.read(
        lambda c: c.execute("SELECT state FROM generations WHERE account_id = ? ORDER BY id", (account.id,))
    )
    return [row[0] for row in rows]


def test_the_sdk_gets_working_links(account: Account) -> None:
    answer = client(account).images.generate(model="flat", prompt="a red apple", size="1024x1024", n=2)
    assert answer.data is not None
    assert len(answer.data) == 2
    for item in answer.data:
        assert item.url is not None
        assert item.b64_json is None
        picture = requests.get(item.url, timeout=30)
        assert Image.open(io.BytesIO(picture.content)).size == (1024, 1024)
    assert abs(answer.created - time.time()) < 120
    assert account.settled() == CREDIT - 2 * PRICE


def test_the_sdk_gets_base64_images_of_any_size(account: Account) -> None:
    answer = client(account).images.generate(
        model="flat",
        prompt="a red apple",
        size="300x257",  # type: ignore[call-overload]
        response_format="b64_json",
        user="user-1",
        extra_body={"seed": 9, "steps": 2, "cfgScale": 3, "scheduler": "Euler a", "negativePrompt": "blue"},
    )
    picture = Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json)))
    assert picture.size == (300, 257)
    assert "Steps: 2, Sampler: Euler a, CFG scale: 3, Seed: 9" in picture.text["parameters"]


def test_several_images_have_consecutive_seeds(account: Account) -> None:
    data = generate(account, n=3, seed=2**32 - 2, response_format="b64_json").json()["data"]
    seeds = []
    for item in data:
        text = Image.open(io.BytesIO(base64.b64decode(item["b64_json"]))).text["parameters"]  # type: ignore[attr-defined]
        seeds.append(text.partition("Seed: ")[2].partition(",")[0])
    assert seeds == [str(2**32 - 2), str(2**32 - 1), "0"]


def test_a_response_names_one_generation_per_image(account: Account) -> None:
    names = generate(account, n=2).headers["x-generation-id"].split(", ")
    assert [account.server.transfers_of(name) for name in names] == [[PRICE], [PRICE]]


@pytest.mark.parametrize("slash", ["", "/"])
def test_the_path_works_with_and_without_a_trailing_slash(account: Account, slash: str) -> None:
    answer = generate(account, f"/v1/images/generations{slash}", size=None, n=None, response_format=None)
    assert (answer.status_code, answer.history) == (200, [])


REFUSED = [
    ("n", 0),
    ("n", 11),
    ("n", True),
    ("n", "2"),
    ("size", "256"),
    ("size", "255x256"),
    ("size", "256x1345"),
    ("size", "256X256"),
    ("size", 256),
    ("size", "٢٥٦x256"),
    ("response_format", "png"),
    *(("response_format", value) for value in (4, False, [], 0, {}, "")),
    ("prompt", None),
    ("prompt", " "),
    ("model", None),
    ("quality", "hd"),
    ("style", "vivid"),
    ("stream", True),
    ("background", "transparent"),
    *(("output_format", value) for value in ("gif", 4, False, [], {}, "")),
    *(("output_compression", value) for value in (101, -1, "90", True)),
    ("partial_images", 2),
    ("width", 512),
    ("webhook_url", "https://example.com/"),
    ("steps", 9),
    ("user", 7),
]


@pytest.mark.parametrize(("field", "value"), REFUSED, ids=[f"{c[0]}={c[1]!r}" for c in REFUSED])
def test_an_unsupported_field_is_named_in_the_format_of_openai(account: Account, field: str, value: object) -> None:
    check_refusal(generate(account, **{field: value}), 400, "invalid_request", field)
    assert states(account) == []


@pytest.mark.parametrize(("value", "got"), [(False, "false"), ([], "[]"), (0, "0"), ({}, "{}")])
def test_a_field_of_the_wrong_type_is_explained_in_terms_of_json(account: Account, value: object, got: str) -> None:
    for field in ("response_format", "prompt", "model", "negativePrompt"):
        answer = generate(account, **{field: value})
        check_refusal(answer, 400, "invalid_request", field)
        assert f"expected a string, got {got}" in answer.json()["error"]["message"]


def test_ten_images_cost_ten_times_one(account: Account) -> None:
    answer = generate(account, n=10, seed=-1)
    assert len(answer.json()["data"]) == 10
    names = answer.headers["x-generation-id"].split(", ")
    assert [account.server.transfers_of(name) for name in names] == [[PRICE]] * 10
    assert account.settled() == CREDIT - 10 * PRICE


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("euler", "Euler"),
        ("EULER A", "Euler a"),
        ("dpm++-2m-karras", "DPM++ 2M Karras"),
        ("dpmpp_2m_sde", "DPM++ 2M SDE"),
        ("EulerAncestralDiscreteScheduler", "Euler a"),
        ("DPMSolverMultistepScheduler", "DPM++ 2M"),
    ],
)
def test_schedulers_and_models_are_known_as_people_write_them(account: Account, written: str, meant: str) -> None:
    answer = generate(account, model=" Flat", scheduler=written, response_format="b64_json", n=1)
    picture = Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"])))
    assert f"Sampler: {meant}," in picture.text["parameters"]  # type: ignore[attr-defined]


def test_an_unknown_scheduler_is_answered_with_the_nearest(account: Account) -> None:
    answer = generate(account, scheduler="DPM++ 3M SDE")
    assert "did you mean DPM++ 2M SDE" in answer.json()["error"]["message"]


def test_fields_without_effect_are_accepted(account: Account) -> None:
    harmless = {"quality": "standard", "output_format": "png", "background": "auto", "moderation": "auto"}
    assert generate(account, **harmless, stream=False, size="auto").status_code == 200


def test_errors_raise_the_exceptions_of_the_sdk(account: Account) -> None:
    with pytest.raises(openai.NotFoundError, match="the nearest is flat"):
        client(account).images.generate(model="flatt", prompt="x")
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(api_key="sk-mt-x", base_url=account.server.url + "/v1").images.generate(model="flat", prompt="x")
    with pytest.raises(openai.BadRequestError, match="this prompt cannot be generated") as refusal:
        client(account).images.generate(model="flat", prompt="an unpaintable thing")
    assert refusal.value.param == "prompt"
    assert account.settled() == CREDIT


def test_several_images_are_reserved_together_or_not_at_all(account: Account) -> None:
    poor = account.server.account("0.004")
    check_refusal(generate(poor, n=4), 402, "insufficient_balance")
    assert poor.settled() == 4_000_000
    assert states(poor) == []


def test_a_client_that_disconnects_pays_for_no_unfinished_image(account: Account) -> None:
    body = b'{"model": "slow", "prompt": "a red apple", "size": "256x256", "n": 4, "steps": 8}'
    with socket.create_connection(("127.0.0.1", account.server.port), 10) as line:
        line.sendall(
            b"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            + f"Authorization: Bearer {account.key}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        eventually(lambda: len(states(account)) == 4, within_s=10)
    eventually(lambda: states(account) == ["cancelled"] * 4, within_s=10)
    assert account.settled() == CREDIT


def test_another_method_is_refused_in_the_format_of_openai(account: Account) -> None:
    answer = requests.get(account.server.url + "/v1/images/generations", headers=account.headers, timeout=10)
    check_refusal(answer, 405, "method_not_allowed")
