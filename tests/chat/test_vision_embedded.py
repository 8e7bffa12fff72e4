"""Image inputs with the embedded model and the real llama.cpp: held and charged tokens are exact."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from minitoolai.storage.tables.ledger import broken_invariants
from tests.support.ask import API, OPENAI, check_refusal, events, get, post, said
from tests.support.eyes import TOKENS, write_eyes
from tests.support.server import Account, ServerProcess

pytestmark = pytest.mark.acceptance

CREDIT = 5_000_000_000
MODEL = "gpt-4o-mini"
FIELD = "messages[0].content[1].image_url.url"


def data_url(kind: str = "png", size: tuple[int, int] = (40, 30), mode: str = "RGB") -> str:
    file = io.BytesIO()
    Image.new(mode, size).save(file, kind)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def about(*urls: str, detail: str = "auto") -> list[dict[str, Any]]:
    pictures = [{"type": "image_url", "image_url": {"url": url, "detail": detail}} for url in urls]
    return [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, *pictures]}]


def server_with(tmp_path_factory: pytest.TempPathFactory, eyes: bytes) -> ServerProcess:
    folder = tmp_path_factory.mktemp("eyes")
    (folder / "eyes.gguf").write_bytes(eyes)
    env = {"SLOTS": "2", "THREADS": "1", "MMPROJ": str(folder / "eyes.gguf")}
    return ServerProcess(folder, env={f"MINITOOLAI_LLAMA_{name}": value for name, value in env.items()})


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    eyes = write_eyes(tmp_path_factory.mktemp("made") / "eyes.gguf").read_bytes()
    with server_with(tmp_path_factory, eyes) as server:
        yield server


@pytest.fixture
def account(seeing: ServerProcess) -> Iterator[Account]:
    account = seeing.account()
    yield account
    account.settled()
    assert seeing.read(broken_invariants) == {}


def prompt_tokens(account: Account, *urls: str, path: str = OPENAI, stream: bool = False, **more: Any) -> int:
    """Return the prompt tokens of one response. Check that exactly these were held and charged."""
    before = account.settled()
    options = {"stream_options": {"include_usage": True}} if stream else {}
    asked = {"model": MODEL, "messages": about(*urls, **more), "stream": stream, "max_completion_tokens": 3}
    answer = post(account, path, **asked, **options)
    assert answer.status_code == 200, answer.text
    if stream:
        found = events(answer.text)
        assert found[-1] == "[DONE]"
        assert said(found)
        usage = found[-2]["usage"]
    else:
        usage = answer.json()["usage"]
    assert before - account.settled() == usage["prompt_tokens"] * 150 + usage["completion_tokens"] * 600
    row = account.server.generation(answer.headers["x-generation-id"])
    assert row["hold_amount"] == usage["prompt_tokens"] * 150 + 3 * 600
    return int(usage["prompt_tokens"])


@pytest.mark.parametrize("path", [API, OPENAI])
@pytest.mark.parametrize("stream", [True, False])
def test_an_image_is_charged_as_many_tokens_as_were_held_for_it(account: Account, path: str, stream: bool) -> None:
    blind = prompt_tokens(account, path=path)
    assert prompt_tokens(account, data_url(), path=path, stream=stream) == blind + TOKENS
    assert prompt_tokens(account, data_url(), data_url("jpeg"), path=path, stream=stream) == blind + 2 * TOKENS


def test_the_models_list_says_which_models_accept_images(account: Account) -> None:
    seeing = {model["id"]: model.get("vision") for model in get(account, "/v1/models").json()["data"]}
    assert (seeing[MODEL], seeing["gpt-4.1"], seeing["tts-1"]) == (True, False, None)


def test_images_of_every_type_size_and_detail_are_accepted(account: Account) -> None:
    seen = prompt_tokens(account) + TOKENS
    for kind in ("jpeg", "png", "webp", "gif"):
        assert prompt_tokens(account, data_url(kind)) == seen
    for detail in ("low", "high"):
        assert prompt_tokens(account, data_url(), detail=detail) == seen
    for size, mode in (((1, 1), "L"), ((3000, 20), "RGBA"), ((17, 900), "P"), ((64, 64), "I;16")):
        assert prompt_tokens(account, data_url("png", size, mode)) == seen
    assert prompt_tokens(account, data_url("jpeg", mode="CMYK")) == seen


def test_a_broken_picture_is_refused_by_its_field_and_costs_nothing(account: Account) -> None:
    whole = base64.b64decode(data_url("png", (400, 400)).partition(",")[2])
    for broken in (whole[:60], whole[:20], b"hello", whole[:40] + b"\0" * 200):
        url = "data:image/png;base64," + base64.b64encode(broken).decode()
        check_refusal(post(account, model=MODEL, messages=about(url)), 400, "invalid_image", FIELD)
    refused = post(account, model=MODEL, messages=about("https://127.0.0.1/a.png"))
    check_refusal(refused, 400, "url_not_allowed", FIELD)
    assert account.settled() == CREDIT


def test_more_pictures_than_the_context_holds_are_refused_before_anything_is_held(account: Account) -> None:
    text = [{"role": "user", "content": "moon " * 4000}]
    messages = [*text, *about(*[data_url(size=(2, 2))] * 20)]
    check_refusal(post(account, model=MODEL, messages=messages), 400, "context_length_exceeded", "messages")
    assert account.settled() == CREDIT


@pytest.mark.parametrize("fault", ["no file", "no GGUF", "cut off", "of another model"])
def test_a_broken_vision_projector_is_explained_and_text_still_works(
    tmp_path_factory: pytest.TempPathFactory, fault: str
) -> None:
    folder = tmp_path_factory.mktemp("made")
    right = write_eyes(folder / "right.gguf").read_bytes()
    eyes = {
        "no file": b"",
        "no GGUF": b"once upon a time",
        "cut off": right[: len(right) // 2],
        "of another model": write_eyes(folder / "other.gguf", width=640).read_bytes(),
    }[fault]
    server = server_with(tmp_path_factory, eyes)
    if fault == "no file":
        (server.folder / "eyes.gguf").unlink()
    with server:
        account = server.account()
        assert post(account, model=MODEL, max_completion_tokens=2).status_code == 200
        offered = get(account, f"/v1/models/{MODEL}").json()
        assert (offered["ready"], offered["vision"]) == (True, False)
        refused = post(account, model=MODEL, messages=about(data_url()))
        check_refusal(refused, 400, "invalid_request", "messages")
        assert "smollm2 serves text but no images" in server.log.read_text()
        doctor = server.command("doctor", "--offline")
        assert doctor.returncode == 1
        (line,) = [line for line in doctor.stdout.splitlines() if "cannot see images" in line]
        assert line.startswith("FAULT  engine smollm2")
        assert "MINITOOLAI_LLAMA_MMPROJ" in line
        if fault == "of another model":
            assert "640" in line
        if fault in ("no file", "no GGUF"):
            assert "MINITOOLAI_LLAMA_MMPROJ" in server.command("models").stdout


def test_the_doctor_tries_the_eyes(seeing: ServerProcess) -> None:
    said_ = seeing.command("doctor", "--offline").stdout
    assert "ok     engine smollm2: one token from smollm2-135m-instruct, with vision" in said_
