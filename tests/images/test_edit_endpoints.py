"""Tests of `/v1/images/edits`, `/v1/images/variations` and `/api/imagetoimage/` on a real server."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import openai
import pytest
import requests
from PIL import Image

from tests.support.pictures import (
    black_png,
    compressed_zeros,
    data_url,
    encoded,
    mask,
    picture,
    png_chunk,
    uploads_left,
)
from tests.support.server import Account
from tests.support.studio_http import CREDIT, PRICE, check_image_refusal, wait
from tests.support.waiting import eventually

EDITS, VARIATIONS, JOBS = "/v1/images/edits", "/v1/images/variations", "/api/imagetoimage/"
POLL = "/api/imagetoimage/jobs/"


def client(account: Account) -> openai.OpenAI:
    return openai.OpenAI(api_key=account.key, base_url=account.server.url + "/v1", max_retries=0)


def edit(account: Account, path: str = EDITS, files: Any = None, **fields: Any) -> requests.Response:
    """Send a form, by default of the model `flat` with a picture."""
    data = {"model": "flat", "prompt": "a red apple", **fields}
    sent = {"image": ("a.png", encoded(picture()))} if files is None else files
    kept = {name: value for name, value in data.items() if value is not None}
    return requests.post(account.server.url + path, data=kept, files=sent, headers=account.headers, timeout=60)


def pixels(data: bytes | str) -> Any:
    raw = base64.b64decode(data) if isinstance(data, str) else data
    return np.asarray(Image.open(io.BytesIO(raw)).convert("RGB")).astype(int)


def refused(answer: requests.Response, status: int, code: str, says: str = "") -> None:
    """Check an error in OpenAI's format."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["code"] == code, error
    assert says in error["message"], error


# ── OpenAI's forms ────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_sdk_edits_an_image_with_a_mask(account: Account) -> None:
    source = picture()
    answer = client(account).images.edit(
        model="flat",
        image=("p.png", encoded(source)),
        mask=("m.png", encoded(mask())),
        prompt="a red apple",
        response_format="b64_json",
        n=2,
        extra_body={"seed": 0x123456, "strength": 0.9},
    )
    assert answer.data is not None
    for number, item in enumerate(answer.data):
        assert item.b64_json is not None
        drawn, before = pixels(item.b64_json), np.asarray(source).astype(int)
        assert drawn.shape == (256, 320, 3)
        # The engine of this test paints the colour of its seed. The mark changes pixels by a few levels.
        assert np.abs(drawn[100:160, 120:180] - [0x12, 0x34, 0x56 + number]).max() <= 12
        outside = np.ones((256, 320), bool)
        outside[80:180, 100:200] = False
        assert np.abs(drawn - before)[outside].max() <= 12
    assert account.settled() == CREDIT - 2 * PRICE
    eventually(lambda: uploads_left(account) == 0)


def test_the_sdk_makes_variations(account: Account) -> None:
    with pytest.warns(DeprecationWarning, match="deprecated"):
        answer = client(account).images.create_variation(model="flat", image=encoded(picture()), n=2, size="512x512")
    assert answer.data is not None
    for item in answer.data:
        assert item.url is not None
        assert Image.open(io.BytesIO(requests.get(item.url, timeout=30).content)).size == (512, 512)
    assert account.settled() == CREDIT - 2 * PRICE


def test_the_metadata_names_the_strength(account: Account) -> None:
    answer = edit(account, response_format="b64_json", strength="0.3", seed="5", steps="3").json()
    image = Image.open(io.BytesIO(base64.b64decode(answer["data"][0]["b64_json"])))
    assert "Steps: 3" in image.text["parameters"]
    assert "Denoising strength: 0.3" in image.text["parameters"]


@pytest.mark.parametrize(("name", "kind", "media"), [("jpeg", "JPEG", "image/jpeg"), ("webp", "WEBP", "image/webp")])
def test_images_come_in_other_formats(account: Account, name: str, kind: str, media: str) -> None:
    url = edit(account, output_format=name, output_compression="80").json()["data"][0]["url"]
    response = requests.get(url, timeout=30)
    image = Image.open(io.BytesIO(response.content))
    assert (response.headers["content-type"], image.format, image.size) == (media, kind, (320, 256))
    assert b"a red apple".decode().encode("utf-16-be") in response.content


@pytest.mark.parametrize(
    ("size", "result"),
    [((320, 256), (320, 256)), ((64, 32), (512, 256)), ((2688, 1400), (1344, 700)), ((300, 257), (300, 257))],
)
def test_the_result_has_the_nearest_size_on_offer(
    account: Account, size: tuple[int, int], result: tuple[int, int]
) -> None:
    answer = edit(account, files={"image": ("a.png", encoded(picture(*size)))}, response_format="b64_json").json()
    assert pixels(answer["data"][0]["b64_json"]).shape == (result[1], result[0], 3)


def test_uploads_are_judged_by_their_bytes_and_turned_upright(account: Account) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    jpeg = encoded(picture(), "JPEG", exif=exif)
    answer = edit(account, files={"image": ("lie.png", jpeg, "text/html")}, response_format="b64_json").json()
    assert pixels(answer["data"][0]["b64_json"]).shape == (320, 256, 3)


def test_transparent_parts_of_an_image_are_its_mask(account: Account) -> None:
    source = picture().convert("RGBA")
    source.paste((9, 9, 9, 0), (100, 80, 200, 180))
    files = {"image": ("a.png", encoded(source))}
    answer = edit(account, files=files, response_format="b64_json", seed="16711680").json()
    drawn = pixels(answer["data"][0]["b64_json"])
    assert np.abs(drawn[100:160, 120:180] - [255, 0, 0]).max() <= 12
    assert np.abs(drawn[:70] - np.asarray(picture())[:70]).max() <= 12


def test_an_idempotency_key_edits_once(account: Account) -> None:
    headers = {**account.headers, "Idempotency-Key": "edit-1"}

    def send(image: bytes) -> requests.Response:
        return requests.post(
            account.server.url + EDITS,
            data={"model": "flat", "prompt": "a red apple"},
            files={"image": ("a.png", image)},
            headers=headers,
            timeout=60,
        )

    first, again = send(encoded(picture())), send(encoded(picture()))
    assert first.json() == again.json()
    assert again.headers["idempotent-replayed"] == "true"
    refused(send(encoded(picture(256, 256))), 422, "idempotency_mismatch")
    assert account.settled() == CREDIT - PRICE


# ── jobs ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_job_takes_a_form_or_json(account: Account) -> None:
    image = encoded(picture())
    fields = {"model": "flat", "prompt": "a red apple", "strength": 0.5, "seed": 3, "steps": 2}
    as_json = requests.post(
        account.server.url + JOBS, json={**fields, "image": data_url(image)}, headers=account.headers, timeout=60
    )
    as_form = edit(account, JOBS, strength="0.5", seed="3", steps="2")
    ended = []
    for answer in (as_json, as_form):
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert body.pop("status") == "success"
        # Both paths serve all jobs.
        assert requests.post(account.server.url + POLL, json=body, timeout=30).status_code == 200
        state = wait(account, body)
        assert (state["status"], state["seed"]) == ("success", 3), state
        ended.append(requests.get(state["image_url"], timeout=30).content)
    images = [Image.open(io.BytesIO(data)) for data in ended]
    assert images[0].text["parameters"] == images[1].text["parameters"]
    assert account.settled() == CREDIT - 2 * PRICE
    eventually(lambda: uploads_left(account) == 0)


def test_a_large_image_fits_into_json(account: Account) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (1300, 1300, 3), np.uint8))
    body = {"model": "flat", "prompt": "a red apple", "image": data_url(encoded(noise))}
    answer = requests.post(account.server.url + JOBS, json=body, headers=account.headers, timeout=60)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("form", [None, "jpeg", "webp"])
def test_a_job_enlarges_an_image(account: Account, form: str | None) -> None:
    source = picture(300, 200)
    fields = {"task": "upscale", "scale": "4", "prompt": None, "output_format": form}
    body = edit(account, JOBS, {"image": ("a.png", encoded(source))}, **fields).json()
    state = wait(account, {"jobid": body["jobid"], "signature": body["signature"]})
    assert state["status"] == "success", state
    response = requests.get(state["image_url"], timeout=30)
    assert response.headers["content-type"] == f"image/{form or 'png'}"
    assert Image.open(io.BytesIO(response.content)).format == (form or "png").upper()
    large = pixels(response.content)
    assert large.shape == (800, 1200, 3)
    expected = np.asarray(source.resize((1200, 800), Image.Resampling.LANCZOS)).astype(int)
    # The mark changes pixels by a few levels, and the other formats lose fine details.
    assert np.abs(large - expected).max() <= (12 if form is None else 80)
    assert np.abs(large - expected).mean() <= 4
    assert account.settled() == CREDIT - PRICE


def test_a_cancelled_job_leaves_no_upload(account: Account) -> None:
    body = edit(account, JOBS, model="slow", steps="8").json()
    assert uploads_left(account) == 1
    url = f"{account.server.url}/api/imagetoimage/jobs/{body['jobid']}?signature={body['signature']}"
    assert requests.delete(url, timeout=30).json()["code"] == "cancelled"
    eventually(lambda: uploads_left(account) == 0)
    assert account.settled() == CREDIT


# ── refusals: nothing is charged, nothing is kept ─────────────────────────────────────────────────────────────────

PNG = encoded(picture())
WIDE = black_png(50_000)
JPEG, WEBP, GIF, BMP = (encoded(picture(), kind) for kind in ("JPEG", "WEBP", "GIF", "BMP"))
# A small PNG with a compressed text of 256 MB before its pixels.
TEXT_BOMB = PNG[:33] + png_chunk(b"zTXt", b"Comment\0\0" + compressed_zeros(256 * 1024**2)) + PNG[33:]

REFUSED: list[tuple[str, dict[str, Any], dict[str, Any], int, str, str]] = [
    ("no image", {"mask": ("m.png", PNG)}, {}, 400, "invalid_request", "image is missing"),
    ("text as image", {"image": ("a.png", b"not an image")}, {}, 400, "invalid_image", "image is not a jpg, png"),
    ("empty", {"image": ("a.png", b"")}, {}, 400, "invalid_image", "image is empty"),
    ("truncated", {"image": ("a.png", PNG[: len(PNG) // 2])}, {}, 400, "invalid_image", "image is a broken png"),
    ("bomb", {"image": ("a.png", WIDE)}, {}, 400, "image_too_large", "the limit is 24,000,000 pixels"),
    ("truncated jpeg", {"image": ("a.jpg", JPEG[: len(JPEG) // 2])}, {}, 400, "invalid_image", "a broken jpeg"),
    ("truncated webp", {"image": ("a.webp", WEBP[:-40])}, {}, 400, "invalid_image", "a broken webp"),
    ("truncated gif", {"image": ("a.gif", GIF[: len(GIF) // 2])}, {}, 400, "invalid_image", "a broken gif"),
    ("head only", {"image": ("a.png", PNG[:20])}, {}, 400, "invalid_image", "image is a broken png"),
    ("jpeg with a head of png", {"image": ("a.png", PNG[:8] + JPEG)}, {}, 400, "invalid_image", "a broken png"),
    ("bmp called png", {"image": ("a.png", BMP, "image/png")}, {}, 400, "invalid_image", "image is not a jpg, png"),
    ("svg called png", {"image": ("a.png", b"<svg/>", "image/png")}, {}, 400, "invalid_image", "image is not a jpg"),
    ("text that unpacks to 256 MB", {"image": ("a.png", TEXT_BOMB)}, {}, 400, "invalid_image", "a broken png"),
    ("mask is a bomb", {"image": ("a.png", PNG), "mask": ("m.png", WIDE)}, {}, 400, "image_too_large", "mask has"),
    (
        "truncated mask",
        {"image": ("a.png", PNG), "mask": ("m.png", encoded(mask())[:200])},
        {},
        400,
        "invalid_image",
        "mask is a broken png",
    ),
    ("mask is text", {"image": ("a.png", PNG), "mask": ("m.png", b"x")}, {}, 400, "invalid_image", "mask is not"),
    (
        "mask of another size",
        {"image": ("a.png", PNG), "mask": ("m.png", encoded(mask(256, 256)))},
        {},
        400,
        "invalid_request",
        "mask has 256 x 256 pixels, but image has 320 x 256; send a mask of the same size",
    ),
    (
        "mask without a hole",
        {"image": ("a.png", PNG), "mask": ("m.png", encoded(Image.new("L", (320, 256))))},
        {},
        400,
        "invalid_request",
        "mask leaves nothing to redraw",
    ),
    ("narrow", {"image": ("a.png", encoded(picture(900, 100)))}, {}, 400, "invalid_request", "too narrow"),
    ("image is a field", {}, {"image": "https://example.com/a.png"}, 400, "invalid_request", "must be a file"),
    ("no prompt", None, {"prompt": None}, 400, "invalid_request", "prompt must be a non-empty string"),
    ("strength 0", None, {"strength": "0"}, 400, "invalid_request", "strength"),
    ("strength 1.5", None, {"strength": "1.5"}, 400, "invalid_request", "strength"),
    ("strength NaN", None, {"strength": "nan"}, 400, "invalid_request", "strength"),
    ("strength infinite", None, {"strength": "inf"}, 400, "invalid_request", "strength"),
    ("strength negative", None, {"strength": "-0.5"}, 400, "invalid_request", "strength"),
    ("strength too small", None, {"strength": "0.049"}, 400, "invalid_request", "strength"),
    ("strength a word", None, {"strength": "much"}, 400, "invalid_request", "strength"),
    ("n", None, {"n": "11"}, 400, "invalid_request", "n is 11; it must be at most 10"),
    ("format", None, {"output_format": "gif"}, 400, "invalid_request", "output_format is"),
    ("size", None, {"size": "9x9"}, 400, "invalid_request", "size is 9x9"),
    ("unknown field", None, {"strenght": "0.5"}, 400, "invalid_request", "the nearest are strength"),
    ("scale", None, {"scale": "2"}, 400, "invalid_request", "scale belongs to task upscale"),
    ("model", None, {"model": "flatt"}, 404, "model_not_found", "flatt"),
    (
        "two images",
        [("image[]", ("a.png", PNG)), ("image[]", ("b.png", PNG))],  # type: ignore[list-item]
        {},
        400,
        "invalid_request",
        "flat takes one",
    ),
    (
        "two masks",
        [("image", ("a.png", PNG)), ("mask", ("b.png", PNG)), ("mask", ("c.png", PNG))],  # type: ignore[list-item]
        {},
        400,
        "invalid_request",
        "mask was sent twice",
    ),
]


@pytest.mark.parametrize(
    ("files", "fields", "status", "code", "says"), [case[1:] for case in REFUSED], ids=[c[0] for c in REFUSED]
)
def test_bad_input_is_refused_by_name(
    account: Account, files: Any, fields: dict[str, Any], status: int, code: str, says: str
) -> None:
    sent = files if files is None or files else {"other": ("", b"")}
    if files == {}:
        sent = {name: (None, value) for name, value in fields.items()}
        fields = {}
    refused(edit(account, EDITS, sent, **fields), status, code, says)
    assert account.settled() == CREDIT
    assert uploads_left(account) == 0


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"task": "paint"}, "task is 'paint'; it must be edit, variation, upscale"),
        ({"task": "upscale", "scale": "3"}, "scale is 3; it must be 2 or 4"),
        ({"task": "upscale", "strength": "0.5"}, "strength has no meaning for upscale"),
        ({"width": "512"}, "height is missing"),
        ({"n": "2"}, "n"),
    ],
)
def test_bad_jobs_are_refused_in_the_form_of_jobs(account: Account, fields: dict[str, Any], says: str) -> None:
    check_image_refusal(edit(account, JOBS, **fields), 400, "invalid_request", says)
    assert account.settled() == CREDIT


@pytest.mark.parametrize("image", [5, "no base64!", {"url": "x"}])
def test_an_image_in_json_must_be_a_data_url(account: Account, image: Any) -> None:
    body = {"model": "flat", "prompt": "a", "image": image}
    answer = requests.post(account.server.url + JOBS, json=body, headers=account.headers, timeout=30)
    check_image_refusal(answer, 400, "invalid_request", "image must be a data URL")


@pytest.mark.parametrize(
    "body",
    [
        b"--x\r\nnonsense",
        b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nabc',
        b"--x\r\nContent-Disposition: form-data\r\n\r\nabc\r\n--x--\r\n",
        b"--y\r\nnonsense\r\n--y--\r\n",
        b"",
    ],
)
def test_a_malformed_form_is_refused(account: Account, body: bytes) -> None:
    headers = {**account.headers, "Content-Type": "multipart/form-data; boundary=x"}
    answer = requests.post(account.server.url + EDITS, data=body, headers=headers, timeout=30)
    refused(answer, 400, "invalid_form")
    assert account.settled() == CREDIT
    assert uploads_left(account) == 0


def test_a_form_without_a_boundary_is_refused(account: Account) -> None:
    headers = {**account.headers, "Content-Type": "multipart/form-data"}
    answer = requests.post(account.server.url + EDITS, data=b"--x\r\n\r\n--x--\r\n", headers=headers, timeout=30)
    refused(answer, 415, "unsupported_media_type", "no valid boundary")


def test_an_image_over_the_limit_is_refused(account: Account) -> None:
    files = {"image": ("a.png", PNG + bytes(21 * 1024**2))}
    refused(edit(account, files=files), 413, "file_too_large", "image is larger than 20 MB")
