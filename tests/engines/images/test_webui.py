"""Tests of web UIs as image engines: requests in its API, progress, interrupts, and the translation of failures."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from PIL import Image

from minitoolai.core.catalog.catalog import EngineEntry, ImageModel
from minitoolai.core.errors import EngineError, EngineRefused, EngineTimeout
from minitoolai.engines.images.remote import remote_server
from minitoolai.engines.images.webui import WebuiEngine, WebuiOptions
from minitoolai.engines.protocols import ImageRequest
from minitoolai.engines.sampling import SCHEDULERS
from minitoolai.httpclient.client import HttpClient
from tests.support.upstream import Behaviour, Upstream
from tests.support.webui import TITLE, Webui

MODELS = {
    "real": ImageModel("real", 1_500_000, ("web",), "realvision.safetensors"),
    "quick": ImageModel("quick", 1_500_000, ("web",), "RealVision", schedule="trailing"),
    "absent": ImageModel("absent", 1_500_000, ("web",), "absent.safetensors"),
}
APPLE = ImageRequest(
    prompt="a red apple", negative_prompt="worm", scheduler="DPM++ 2M Karras", width=300, height=257, seed=0x0A141E
)


@asynccontextmanager
async def web(behave: Behaviour, key: str = "", **options: Any) -> AsyncIterator[WebuiEngine]:
    entry = EngineEntry("webui", **{k: options.pop(k) for k in ("total_timeout_s", "concurrency") if k in options})
    with Upstream(behave) as server:
        client = HttpClient()
        remote = remote_server("web", entry, base_url=f"http://127.0.0.1:{server.port}/", key=key)
        options = {"poll_every_s": 0.02, "refresh_every_s": 30.0} | options
        engine = WebuiEngine(remote, entry, client, MODELS, **options)
        await engine.start()
        try:
            yield engine
        finally:
            await engine.stop()
            await client.close()


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def ignore(_done: int, _total: int) -> None:
    """Ignore progress."""


def test_the_request_uses_its_api_and_the_image_has_the_requested_size() -> None:
    webui = Webui()

    async def test() -> None:
        async with web(webui) as engine:
            reported: list[tuple[int, int]] = []
            drawn = await engine.generate("real", APPLE, lambda *step: reported.append(step))
            assert reported[-1] == (4, 4)
            assert drawn.model == "realvision"
            picture = Image.open(io.BytesIO(drawn.png))
            assert (picture.size, picture.getpixel((0, 0))) == ((300, 257), (0x0A, 0x14, 0x1E))
            assert picture.text["parameters"].startswith(  # type: ignore[attr-defined]
                "a red apple\nNegative prompt: worm\nSteps: 4, Sampler: DPM++ 2M Karras, CFG scale: 2, "
                "Seed: 660510, Size: 300x257, Model: real, Version: minitoolai"
            )

    run(test())
    (body,) = webui.asked
    # It rounds down to multiples of eight, so request a larger image and crop it.
    assert (body["width"], body["height"], body["seed"], body["steps"], body["cfg_scale"]) == (304, 264, 660510, 4, 2.0)
    assert (body["sampler_name"], body["scheduler"]) == ("DPM++ 2M", "Karras")
    assert body["override_settings"] == {"sd_model_checkpoint": TITLE}
    assert (body["prompt"], body["negative_prompt"]) == ("a red apple", "worm")


@pytest.mark.parametrize("joined", [True, False], ids=["joined names", "sampler and scheduler"])
def test_every_scheduler_maps_to_a_sampler_of_the_web_ui(joined: bool) -> None:
    webui = Webui(joined=joined)
    options_of = WebuiOptions.of(
        webui._models(), webui._samplers(), [] if joined else [{"name": "sgm_uniform", "label": "SGM Uniform"}], "web"
    )
    fields_of = {name: options_of.sampler(name, trailing=False) for name in SCHEDULERS}
    if joined:
        assert fields_of == {name: {"sampler_name": name} for name in SCHEDULERS}
        return
    for name, fields in fields_of.items():
        assert fields["sampler_name"] == name.removesuffix(" Karras")
        # "Automatic" means Karras for DPM++ 2M and similar samplers, which gives another image.
        plan = "Karras" if name.endswith(" Karras") else "Automatic" if name == "DPM fast" else "Uniform"
        assert fields["scheduler"] == plan


def test_a_trailing_schedule_is_requested_and_named_in_the_metadata() -> None:
    webui = Webui()

    async def test() -> None:
        async with web(webui) as engine:
            plain = await engine.generate("quick", ImageRequest(prompt="x", scheduler="Euler"), ignore)
            karras = await engine.generate("quick", ImageRequest(prompt="x", scheduler="LMS Karras"), ignore)
            texts = [Image.open(io.BytesIO(drawn.png)).text["parameters"] for drawn in (plain, karras)]  # type: ignore[attr-defined]
            assert "Sampler: Euler, Schedule type: SGM Uniform, CFG" in texts[0]
            assert "Schedule type" not in texts[1]

    run(test())
    assert [body["scheduler"] for body in webui.asked] == ["SGM Uniform", "Karras"]


def test_progress_is_reported_and_never_decreases() -> None:
    async def test() -> None:
        async with web(Webui(calls=7, call_s=0.06)) as engine:
            reported: list[int] = []
            await engine.generate("real", APPLE, lambda done, _: reported.append(done))
            assert reported == sorted(set(reported))
            assert reported[-1] == 4
            assert len(reported) >= 3

    run(test())


def test_a_cancelled_image_is_interrupted_and_the_next_one_is_not() -> None:
    webui = Webui(calls=100, call_s=0.05)

    async def test() -> None:
        async with web(webui) as engine:
            first = asyncio.create_task(engine.generate("real", APPLE, ignore))
            while not webui.asked:
                await asyncio.sleep(0.01)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            webui.calls = 2
            drawn = await engine.generate("real", APPLE, ignore)
            assert drawn.png.startswith(b"\x89PNG")
            assert webui.interrupts == 1

    run(test())


def test_the_password_is_sent_as_basic_authentication() -> None:
    webui = Webui()
    webui.user = "ann:s3cret"

    async def test() -> None:
        async with web(webui, key="ann:s3cret") as engine:
            assert (await engine.generate("real", APPLE, ignore)).model == "realvision"
        async with web(webui, key="ann:wrong") as engine:
            with pytest.raises(EngineError, match="the engine failed with status 401"):
                await engine.generate("real", APPLE, ignore)

    run(test())


def test_a_missing_checkpoint_is_named_and_a_new_one_is_found() -> None:
    webui = Webui()

    async def test() -> None:
        async with web(webui, refresh_every_s=0.05) as engine:
            while engine.why_not_ready("absent") is None:
                await asyncio.sleep(0.01)
            assert "no checkpoint absent.safetensors: put it into" in str(engine.why_not_ready("absent"))
            assert engine.why_not_ready("real") is None
            with pytest.raises(EngineError, match="the engine does not have this model"):
                await engine.generate("absent", APPLE, ignore)
            webui.titles.append("Absent.ckpt")
            async with asyncio.timeout(5):
                while engine.why_not_ready("absent") is not None:
                    await asyncio.sleep(0.01)
            await engine.generate("absent", APPLE, ignore)
            assert webui.asked[-1]["override_settings"] == {"sd_model_checkpoint": "Absent.ckpt"}

    run(test())


REFUSALS = [
    (422, {"detail": [{"loc": ["body", "steps"], "msg": "not an integer"}]}, EngineRefused, "not an integer"),
    (404, {"detail": "Sampler not found"}, EngineRefused, "Sampler not found"),
    (404, {"detail": "Not Found"}, EngineError, "does not have this API"),
    (500, {"error": "OutOfMemoryError", "detail": "", "errors": "CUDA out of memory."}, EngineError, "out of memory"),
    (500, {"error": "RuntimeError", "detail": "", "errors": "secret path /srv/x"}, EngineError, "status 500"),
    (200, {"images": [], "info": ""}, EngineError, "interrupted at the web UI"),
    (200, {"images": ["!!!"]}, EngineError, "invalid image"),
    (200, {"images": ["aGVsbG8="]}, EngineError, "invalid image"),
    (200, {"images": 5}, EngineError, "invalid image"),
]


@pytest.mark.parametrize(("status", "body", "kind", "words"), REFUSALS)
def test_failures_are_translated(status: int, body: dict[str, Any], kind: type[EngineError], words: str) -> None:
    webui = Webui()
    webui.refusal = status, body

    async def test() -> None:
        async with web(webui) as engine:
            with pytest.raises(EngineError, match=words) as failure:
                await engine.generate("real", APPLE, ignore)
            assert type(failure.value) is kind
            assert "secret" not in failure.value.message

    run(test())


@pytest.mark.parametrize("paths", [{"/sdapi/v1/txt2img"}, {"/sdapi/v1/txt2img", "/sdapi/v1/interrupt"}])
def test_a_web_ui_that_does_not_respond_times_out(paths: set[str]) -> None:
    webui = Webui()
    webui.hangs = paths

    async def test() -> None:
        async with web(webui, total_timeout_s=0.4) as engine:
            with pytest.raises(EngineTimeout, match=r"did not finish within 0\.4 s"):
                await engine.generate("real", APPLE, ignore)

    run(test())


def test_a_web_ui_without_progress_times_out_early() -> None:
    webui = Webui(calls=1000, call_s=0.1)

    async def test() -> None:
        async with web(webui) as engine:
            generating = asyncio.create_task(engine.generate("real", APPLE, ignore))
            while not webui.asked:
                await asyncio.sleep(0.01)
            webui.fails = {"/sdapi/v1/progress"}
            with pytest.raises(EngineTimeout, match="hangs"):
                await asyncio.wait_for(generating, 10)

    run(test())


def test_an_unreachable_web_ui_is_a_retryable_error() -> None:
    entry = EngineEntry("webui")

    async def test() -> None:
        client = HttpClient()
        nowhere = WebuiEngine(remote_server("web", entry, base_url="http://127.0.0.1:9"), entry, client, MODELS)
        await nowhere.start()
        while nowhere.is_up:
            await asyncio.sleep(0.01)
        with pytest.raises(EngineError, match="cannot be reached") as failure:
            await nowhere.generate("real", APPLE, ignore)
        assert failure.value.retryable
        await nowhere.stop()
        unset = WebuiEngine(remote_server("web", entry), entry, client, MODELS)
        assert "MINITOOLAI_WEB_BASE_URL" in str(unset.why_not_ready("real"))
        with pytest.raises(EngineError, match="the engine is not ready"):
            await unset.generate("real", APPLE, ignore)
        await client.close()

    run(test())
