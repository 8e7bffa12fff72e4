"""Unit tests of chat/image_inputs.py: images are checked by their bytes, and fetched for engines that do not."""

from __future__ import annotations

import asyncio
import base64
import io
from typing import Any

import pytest
from PIL import Image

from minitoolai.chat.image_inputs import BASE64_STEP, MAX_IMAGES, ImageInputs
from minitoolai.core.catalog.catalog import EngineEntry
from minitoolai.core.errors import FetchFailed, InvalidRequest, UrlForbidden
from minitoolai.core.inference import ChatRequest
from minitoolai.engines.chat.llama.engine import LlamaEngine
from minitoolai.engines.chat.openai import UpstreamEngine
from minitoolai.httpclient.client import HttpClient
from minitoolai.httpclient.guarded import GuardedClient, GuardedResponse

KINDS = ("jpeg", "png", "webp", "gif")
FIELD = "messages[0].content[0].image_url.url"


def picture(kind: str = "png", width: int = 31) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, 17), (200, 30, 30)).save(file, kind)
    return file.getvalue()


def data_url(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def request(*urls: str) -> ChatRequest:
    parts = [{"type": "image_url", "image_url": {"url": url, "detail": "low"}} for url in urls]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": "I see."}]
    return ChatRequest("gpt-4o-mini", messages, {}, stream=True, include_usage=True, limit=None)


def looked_at(
    asked: ChatRequest, *, must_fetch: bool = False, web: dict[str, GuardedResponse] | None = None
) -> list[str]:
    async def fetch(url: str, field: str) -> GuardedResponse:
        assert web is not None, f"nothing should be fetched for {field}"
        return web[url]

    asyncio.run(ImageInputs(fetch, _accept).load(asked, must_fetch=must_fetch))
    return [part["image_url"]["url"] for part in asked.messages[0]["content"]]


def found(body: bytes, status: int = 200) -> GuardedResponse:
    return GuardedResponse(status, {"content-type": "image/jpeg"}, body, "https://example.com/")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("called", ["jpg", *KINDS])
def test_a_data_url_gets_the_media_type_of_its_bytes(kind: str, called: str) -> None:
    data = picture(kind)
    assert looked_at(request(data_url(data, called))) == [data_url(data, kind)]


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("data:image/png;base64,", "invalid_image"),
        ("data:image/png;base64,????", "invalid_image"),
        ("data:image/png;base64,AAA", "invalid_image"),
        (data_url(b"<svg onload=alert(1)>"), "invalid_image"),
        (data_url(b"\x89PNG\r\n\x1a\n" + b"\0" * 40), "invalid_image"),
        (data_url(picture()[:20]), "invalid_image"),
        (data_url(b"\xff\xd8\xff" + b"\0" * (10 * 1024 * 1024)), "image_too_large"),
    ],
)
def test_an_invalid_image_is_refused_with_its_position(url: str, code: str) -> None:
    with pytest.raises(InvalidRequest) as no:
        looked_at(request(url))
    assert (no.value.code, no.value.param) == (code, FIELD)


@pytest.mark.parametrize("more", [0, 1, 2, BASE64_STEP - 1, BASE64_STEP, 3 * BASE64_STEP + 1])
def test_a_large_picture_is_the_same_afterwards(more: int) -> None:
    data = picture() + b"\7" * more
    assert looked_at(request(data_url(data))) == [data_url(data)]
    assert looked_at(request(data_url(data, "gif"))) == [data_url(data)]


def test_stray_bits_at_the_end_of_base64_are_cleared() -> None:
    data = picture() + b"\0" * (3 - len(picture()) % 3) + b"\1"
    good = data_url(data)
    assert good.endswith("AQ==")
    assert looked_at(request(good.removesuffix("AQ==") + "AR==")) == [good]


@pytest.mark.parametrize("place", [0, 1000, BASE64_STEP - 4, BASE64_STEP, 2 * BASE64_STEP])
def test_base64_with_padding_in_its_midst_is_refused(place: int) -> None:
    head, _, text = data_url(picture() + b"\7" * 3 * BASE64_STEP).partition(",")
    with pytest.raises(InvalidRequest) as no:
        looked_at(request(f"{head},{text[:place]}AAA={text[place:]}"))
    assert (no.value.code, no.value.param) == ("invalid_image", FIELD)


def test_a_url_is_kept_for_an_engine_that_fetches() -> None:
    assert looked_at(request("https://example.com/a.jpg")) == ["https://example.com/a.jpg"]


def test_a_url_is_fetched_for_an_engine_that_does_not_fetch() -> None:
    web = {f"https://example.com/{kind}": found(picture(kind)) for kind in KINDS}
    assert looked_at(request(*web), must_fetch=True, web=web) == [data_url(picture(kind), kind) for kind in KINDS]


@pytest.mark.parametrize(("answer", "kind"), [(found(b"gone", 404), FetchFailed), (found(b"<html>"), InvalidRequest)])
def test_a_url_without_a_valid_image_is_refused(answer: GuardedResponse, kind: type[InvalidRequest]) -> None:
    with pytest.raises(kind) as no:
        looked_at(request("https://example.com/a"), must_fetch=True, web={"https://example.com/a": answer})
    assert no.value.param == FIELD


@pytest.mark.parametrize("url", ["https://127.0.0.1/a.png", "https://169.254.169.254/latest", "https://[::1]/a.png"])
def test_images_are_fetched_with_the_ssrf_safe_client(url: str) -> None:
    client = GuardedClient()
    seeing = ImageInputs(lambda where, field: client.get(where, field=field), _never)
    with pytest.raises(UrlForbidden) as no:
        asyncio.run(seeing.load(request(url), must_fetch=True))
    assert no.value.param == FIELD


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/a.png",
        "https://169.254.169.254/latest",
        "https://[::1]/a.png",
        "https://10.0.0.5/a.png",
        "https://2130706433/a.png",
        "https://localhost/a.png",
        "https://inside.example/a.png",
        "https://mixed.example/a.png",
        "https://user@example.com/a.png",
        "https://example.com:8443/a.png",
    ],
)
def test_a_url_that_an_engine_fetches_is_judged_like_one_that_is_fetched_here(url: str) -> None:
    async def resolve(host: str, port: int) -> Any:
        known = {"inside.example": ["10.1.2.3"], "mixed.example": ["93.184.216.34", "192.168.0.1"]}
        return [(2, 1, 6, "", (address, port)) for address in known.get(host, [host])]

    client = GuardedClient(resolve=resolve)
    seeing = ImageInputs(_never, lambda where, field: client.check(where, field=field))
    with pytest.raises(UrlForbidden) as no:
        asyncio.run(seeing.load(request(url), must_fetch=False))
    assert no.value.param == FIELD


def test_a_public_url_is_left_to_the_engine_and_an_unknown_name_is_refused() -> None:
    async def resolve(host: str, port: int) -> Any:
        if host == "nowhere.example":
            raise OSError("no such name")
        return [(2, 1, 6, "", ("93.184.216.34", port))]

    client = GuardedClient(resolve=resolve)
    seeing = ImageInputs(_never, lambda where, field: client.check(where, field=field))
    asked = request("https://example.com/a.png")
    asyncio.run(seeing.load(asked, must_fetch=False))
    assert asked.messages[0]["content"][0]["image_url"]["url"] == "https://example.com/a.png"
    with pytest.raises(FetchFailed, match="cannot be resolved"):
        asyncio.run(seeing.load(request("https://nowhere.example/a.png"), must_fetch=False))


@pytest.mark.parametrize(
    ("address", "is_public"),
    [
        ("https://api.openai.com/v1", True),
        ("http://8.8.8.8:8000/v1", True),
        ("http://127.0.0.1:8000/v1", False),
        ("http://10.0.0.7/v1", False),
        ("http://[::1]:8000/v1", False),
        ("http://[2606:4700::1111]/v1", True),
        ("http://localhost:8000/v1", False),
        ("http://vllm:8000/v1", False),
        ("http://vllm.default.svc.cluster.local/v1", False),
        ("http://gpu.internal/v1", False),
        ("http://gpu.lan./v1", False),
        ("http://2130706433/v1", False),
    ],
)
def test_only_an_engine_at_a_public_address_fetches_images_by_default(address: str, is_public: bool) -> None:
    assert UpstreamEngine("far", EngineEntry("upstream", base_url=address), HttpClient()).fetches_images is is_public
    for chosen in (True, False):
        entry = EngineEntry("upstream", base_url=address, fetches_images=chosen)
        assert UpstreamEngine("far", entry, HttpClient()).fetches_images is chosen
    moved = UpstreamEngine(
        "far", EngineEntry("upstream", base_url="https://a.example.com/v1"), HttpClient(), base_url=address
    )
    assert moved.fetches_images is is_public


def test_too_many_images_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="at most 32"):
        looked_at(request(*["https://example.com/a"] * (MAX_IMAGES + 1)))


def test_a_message_without_images_is_left_unchanged() -> None:
    asked = ChatRequest("m", [{"role": "user", "content": "hi"}], {}, stream=True, include_usage=True, limit=None)
    asyncio.run(ImageInputs(_never, _never).load(asked, must_fetch=True))


async def _accept(url: str, field: str) -> None:
    return None


async def _never(url: str, field: str) -> Any:
    raise AssertionError(url)


def test_png_images_are_upright_and_without_transparency() -> None:
    file, turned = io.BytesIO(), Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (300, 100), (0, 0, 250)).save(file, "jpeg", exif=turned)
    clear = io.BytesIO()
    Image.new("RGBA", (5000, 10), (0, 0, 0, 0)).save(clear, "png")
    asked = request(data_url(file.getvalue()), data_url(clear.getvalue()))
    asyncio.run(ImageInputs(_never, _never).load(asked, must_fetch=True, as_png=True))
    urls = [part["image_url"]["url"] for part in asked.messages[0]["content"]]
    assert [url.partition(",")[0] for url in urls] == ["data:image/png;base64"] * 2
    found = [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]
    assert [(one.mode, one.size) for one in found] == [("RGB", (100, 300)), ("RGB", (2048, 4))]
    assert found[1].getpixel((0, 0)) == (255, 255, 255)


def test_a_picture_that_breaks_off_is_refused_where_it_is_unpacked() -> None:
    file = io.BytesIO()
    Image.effect_noise((200, 200), 50).save(file, "png")
    with pytest.raises(InvalidRequest, match="broken png") as no:
        asyncio.run(
            ImageInputs(_never, _never).load(request(data_url(file.getvalue()[:900])), must_fetch=True, as_png=True)
        )
    assert (no.value.code, no.value.param) == ("invalid_image", FIELD)


def test_the_embedded_model_sees_with_the_operators_mmproj_and_says_where_it_is_missing(tmp_path: Any) -> None:
    async def check() -> None:
        entry, eyes = EngineEntry("llama", model="m", context=4096), tmp_path / "eyes.gguf"
        blind, seeing = (LlamaEngine("e", entry, HttpClient(), path=__file__, mmproj=path) for path in ("", str(eyes)))
        assert (blind.vision, blind.vision_unavailable_reason()) == (False, None)
        # Reading and writing still works.
        assert seeing.why_not_ready() is None
        assert "MINITOOLAI_LLAMA_MMPROJ" in str(seeing.vision_unavailable_reason())
        eyes.write_bytes(b"GGUF")
        assert (seeing.vision, seeing.vision_unavailable_reason()) == (True, None)

    asyncio.run(check())
