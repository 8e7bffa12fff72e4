"""Long image data URLs are decoded apart from the rest of a body, and nothing else is taken for one."""

from __future__ import annotations

import base64
import json
import random
from typing import Any

import pytest

from minitoolai.core.errors import BodyTooLarge
from minitoolai.http.bodies import data_urls
from minitoolai.http.bodies.data_urls import LONG_URL, MOST_URLS, STEP, TextCounter, extract_urls, restore_urls
from minitoolai.http.validation import json_object

MB = 1024 * 1024


def url(size: int, seed: int = 1, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(random.Random(seed).randbytes(size)).decode()}"


def escaped(text: str) -> str:
    """JSON as PHP, Gson and System.Text.Json write it."""
    return text.replace("/", "\\/").replace("+", "\\u002B").replace("=", "\\u003d")


@pytest.mark.parametrize("encode", [str, escaped, lambda text: text.replace("/", "\\/")])
@pytest.mark.parametrize("size", [100, LONG_URL, STEP, 3 * MB + 1, 3 * MB + 2])
def test_every_way_to_write_a_url_gives_the_same(encode: Any, size: int) -> None:
    wanted = {"model": "m", "messages": [{"content": [{"image_url": {"url": url(size)}}, {"image_url": {"url": "x"}}]}]}
    body = json.dumps(wanted).replace(url(size), encode(url(size))).encode()
    assert json_object(body) == wanted


def test_images_may_take_more_than_text_may() -> None:
    urls = [url(7 * MB, 1), url(7 * MB, 2, "jpeg")]
    fields = {"a": [{"url": urls[0]}], "b": {"url": urls[1], "text": "y" * 100}, "c": urls[0]}
    body = json.dumps({key: fields[key] for key in ("a", "b")}).encode()
    assert len(body) > 18 * MB
    assert json_object(body) == {key: fields[key] for key in ("a", "b")}
    rest, found = extract_urls(body)
    assert found == urls
    assert len(rest) < 300


@pytest.mark.parametrize(
    "text",
    [
        "data:image/png;base64," + "A" * LONG_URL + "!",
        "data:image/png;base64," + "A" * LONG_URL + "é",
        "data:image/png;base64," + "A" * LONG_URL + "\n",
        "data:image/png;base64," + "A" * LONG_URL + "\\",
        "data:image/png;base64," + "A" * LONG_URL + '"',
        "data:image/svg xml;base64," + "A" * LONG_URL,
        "data:image/png," + "A" * LONG_URL,
        "data:text/plain;base64," + "A" * LONG_URL,
        ' "data:image/png;base64,' + "A" * LONG_URL + '"',
        "\\" * 3 + '"data:image/png;base64,' + "A" * LONG_URL + '"',
    ],
    ids=lambda text: text[:24],
)
def test_what_only_looks_like_an_image_is_decoded_as_text(text: str) -> None:
    body = json.dumps({"a": text, "b": [text]}, ensure_ascii=False).encode()
    assert extract_urls(body)[1] == []
    assert json_object(body) == {"a": text, "b": [text]}


def test_a_name_is_no_image() -> None:
    fields = {url(LONG_URL): 1, "a": {url(LONG_URL, 2): url(LONG_URL, 3)}}
    body = json.dumps(fields, separators=(",", " \n: ")).encode()
    assert extract_urls(body)[1] == [url(LONG_URL, 3)]
    assert json_object(body) == fields


def test_a_placeholder_that_a_caller_guessed_stays_as_it_is() -> None:
    guess = f"{data_urls._PLACEHOLDER}:7"
    value = {"a": [guess]}
    restore_urls(value, ["x"])
    assert value == {"a": [guess]}


def test_only_so_many_are_taken_out() -> None:
    urls = [url(LONG_URL, number) for number in range(MOST_URLS + 2)]
    body = json.dumps(urls).encode()
    assert extract_urls(body)[1] == urls[:MOST_URLS]


@pytest.mark.parametrize("broken", [b'{"a":"data:image/png;base64,', b'{"a":"data:image', b'"data:image/png;base64,"'])
def test_a_url_without_an_end_is_no_url(broken: bytes) -> None:
    assert extract_urls(broken + b"A" * 200_000)[1] == []


# ── while the body arrives ────────────────────────────────────────────────────────────────────────────────


def refused_after(body: bytes, step: int, limit: int = 1000) -> int | None:
    """How many bytes had arrived when the counter refused; None where it did not."""
    counter, parts, size = TextCounter(limit), [], 0
    for at in range(0, len(body), step):
        parts.append(body[at : at + step])
        size += len(parts[-1])
        try:
            counter.check(parts, size)
        except BodyTooLarge:
            return size
    return None


@pytest.mark.parametrize("step", [1, 2, 3, 5, 7, 11, 12, 13, 100, 4096, 10**6])
def test_text_is_counted_however_it_arrives(step: int) -> None:
    image = b'"data:image/png;base64,' + b"A" * 5000 + b'"'
    text = b"x" * 450
    assert refused_after(text + image + text, step) is None
    assert refused_after(text + image + image + text + image, step) is None
    after = refused_after(text + image + text + b"y" * 200, step)
    assert after is not None
    assert after >= len(text + image + text) + 40
    after = refused_after(b"x" * 3000, step)
    assert after is not None
    assert after <= 1015 + 2 * step


def test_an_image_at_the_beginning_is_no_excuse_for_what_follows() -> None:
    after = refused_after(b'{"u":"data:image/png;base64,AAAA","x":[' + b"[]," * 10_000, 256)
    assert after is not None
    assert after < 1500


def test_after_so_many_images_everything_is_text() -> None:
    after = refused_after(b'"data:image/png;base64,A",' * 10_000, 256)
    assert after is not None
    assert after < MOST_URLS * 30 + 1500
