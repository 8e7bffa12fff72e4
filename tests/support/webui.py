"""A stand-in for a Stable Diffusion web UI: AUTOMATIC1111's `/sdapi/v1` on loopback, in its old and its new form.

It returns images of one colour, derived from the seed, in the requested size rounded down to multiples of eight.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
from typing import Any

from PIL import Image

from minitoolai.engines.sampling import SCHEDULERS
from tests.support.upstream import Exchange

TITLE = "realvision.safetensors [15012c538f]"
METHODS = sorted({name.removesuffix(" Karras") for name in SCHEDULERS})
PLANS = [("automatic", "Automatic"), ("uniform", "Uniform"), ("karras", "Karras"), ("sgm_uniform", "SGM Uniform")]


def png(colour: tuple[int, int, int], width: int, height: int) -> bytes:
    """Return an image of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "PNG")
    return file.getvalue()


class Webui:
    """A behaviour for tests.support.upstream.Upstream. Records the requests in `asked`."""

    def __init__(self, *, joined: bool = False, calls: int = 1, call_s: float = 0.0) -> None:
        """Create a web UI. `joined`: sampler names include Karras, as before 1.9. An image takes `calls` x `call_s`."""
        self.joined, self.calls, self.call_s = joined, calls, call_s
        self.asked: list[dict[str, Any]] = []
        self.titles = [TITLE]
        self.interrupts = 0
        self.is_interrupted = asyncio.Event()
        self.step = 0
        #: Respond with this (status, body) instead of an image.
        self.refusal: tuple[int, dict[str, Any]] | None = None
        #: Paths that get no response.
        self.hangs: set[str] = set()
        #: Paths that get status 500.
        self.fails: set[str] = set()
        self.user = ""

    async def __call__(self, exchange: Exchange) -> None:
        path = exchange.path.partition("?")[0]
        if self.user:
            wanted = "Basic " + base64.b64encode(self.user.encode()).decode()
            if exchange.headers.get("authorization") != wanted:
                return exchange.answer(401, {"detail": "Incorrect username or password"})
        if path in self.hangs:
            return await exchange.hang()
        if path in self.fails:
            return exchange.answer(500, {"error": "RuntimeError", "detail": "", "errors": ""})
        answers = {
            "/sdapi/v1/sd-models": self._models,
            "/sdapi/v1/samplers": self._samplers,
            "/sdapi/v1/progress": self._progress,
            "/sdapi/v1/interrupt": self._interrupt,
        }
        if path == "/sdapi/v1/schedulers" and not self.joined:
            plans = [{"name": n, "label": label, "aliases": None, "default_rho": -1.0} for n, label in PLANS]
            return exchange.answer(200, json.dumps(plans).encode())
        if path in ("/sdapi/v1/txt2img", "/sdapi/v1/img2img"):
            return await self._draw(exchange)
        if path not in answers:
            return exchange.answer(404, {"detail": "Not Found"})
        return exchange.answer(200, json.dumps(answers[path]()).encode())

    def _models(self) -> Any:
        return [
            {
                "title": title,
                "model_name": title.split(".")[0],
                "hash": "15012c538f",
                "sha256": None,
                "filename": f"/srv/webui/models/Stable-diffusion/{title.split(' [')[0]}",
                "config": None,
            }
            for title in self.titles
        ]

    def _samplers(self) -> Any:
        names = list(SCHEDULERS) if self.joined else METHODS
        return [{"name": name, "aliases": [f"k_{name.lower()}"], "options": {}} for name in names]

    def _progress(self) -> Any:
        state = {"skipped": False, "interrupted": False, "sampling_step": self.step, "sampling_steps": self.calls}
        return {"progress": self.step / self.calls, "eta_relative": 1.0, "state": state, "current_image": None}

    def _interrupt(self) -> Any:
        self.interrupts += 1
        self.is_interrupted.set()
        return {}

    async def _draw(self, exchange: Exchange) -> None:
        body = exchange.body
        self.asked.append(body)
        if self.refusal:
            return exchange.answer(*self.refusal)
        self.is_interrupted.clear()
        for step in range(self.calls):
            self.step = step
            if self.is_interrupted.is_set():
                break
            await asyncio.sleep(self.call_s)
        colour = body["seed"] >> 16 & 255, body["seed"] >> 8 & 255, body["seed"] & 255
        image = png(colour, body["width"] // 8 * 8, body["height"] // 8 * 8)
        info = {"seed": body["seed"], "sd_model_name": "realvision", "sampler_name": body["sampler_name"]}
        answer = {"images": [base64.b64encode(image).decode()], "parameters": body, "info": json.dumps(info)}
        return exchange.answer(200, answer)
