"""The web UI of AUTOMATIC1111 or Forge (`/sdapi/v1`, started with --api) as an image engine.

It generates one image at a time in one process. So send one request at a time, poll its progress meanwhile, and
interrupt it if the request is cancelled.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import re
from contextlib import suppress
from typing import Any

import msgspec

from minitoolai.core.catalog.catalog import EngineEntry, ImageModel
from minitoolai.core.catalog.suppliers import THE_ENGINE
from minitoolai.core.errors import EngineError, EngineRefused, EngineTimeout
from minitoolai.core.threads import PICTURES
from minitoolai.engines.chat.failures import read_error_body, words_for_caller
from minitoolai.engines.images.codec import cover, decode_image, encode_result, parameters_text
from minitoolai.engines.images.remote import RemoteServer
from minitoolai.engines.protocols import GeneratedImage, ImageRequest, OnProgress
from minitoolai.httpclient.client import HttpClient

log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode
_TOTAL_TIMEOUT_S = 600.0
_SHORT_TIMEOUT_S = 10.0
#: Refresh a web UI that is down this often.
_RETRY_S = 5.0
#: After this many failed polls of its progress in a row, the web UI counts as hanging.
_MAX_FAILED_POLLS = 3


class WebuiEngine:
    """One web UI. Polls its progress every `poll_every_s` and its checkpoints every `refresh_every_s`."""

    def __init__(
        self,
        remote: RemoteServer,
        entry: EngineEntry,
        client: HttpClient,
        models: dict[str, ImageModel],
        *,
        poll_every_s: float = 0.5,
        refresh_every_s: float = 30.0,
    ) -> None:
        self.name = remote.name
        self.max_concurrency = entry.concurrency or 1
        self.max_images = 1 if entry.edit_images is None else min(entry.edit_images, 1)
        self.is_up = not remote.fault
        self._remote, self._entry, self._client, self._models = remote, entry, client, models
        self._total_timeout_s = entry.total_timeout_s or _TOTAL_TIMEOUT_S
        self._poll_every_s, self._refresh_every_s = poll_every_s, refresh_every_s
        self._options: WebuiOptions | None = None
        self._refresher: asyncio.Task[None] | None = None
        self._interrupts: set[asyncio.Task[None]] = set()

    def why_not_ready(self, model: str) -> str | None:
        if self._remote.fault:
            return self._remote.fault
        weights = self._weights(model)
        if self._options is not None and self._options.checkpoint(weights) is None:
            return f"the web UI has no checkpoint {weights}: put it into its models/Stable-diffusion"
        return None

    def lora_names(self, model: str) -> None:
        """Return None: the web UI reads tags itself, and ignores those that it does not know."""

    def batch_key(self, model: str, width: int, height: int) -> str:
        """Return the checkpoint: consecutive images with the same one spare the web UI a reload."""
        return self._weights(model)

    async def start(self) -> None:
        """Start refreshing its checkpoints and samplers in the background, even while the web UI is down."""
        if not self._remote.fault and self._refresher is None:
            self._refresher = asyncio.create_task(self._refresh_forever())
            await asyncio.sleep(0)

    async def stop(self) -> None:
        tasks = [task for task in (self._refresher, *self._interrupts) if task is not None]
        self._refresher = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def generate(self, model: str, request: ImageRequest, on_progress: OnProgress) -> GeneratedImage:
        """Generate one image. Cancelling the call interrupts the web UI."""
        # Wait for pending interrupts, which would hit this image instead of the cancelled one.
        await asyncio.gather(*self._interrupts, return_exceptions=True)
        options = await self._options_for(self._weights(model))
        body = self._body(model, request, options)
        polling = asyncio.create_task(self._poll_progress(request.steps, on_progress))
        sending = asyncio.create_task(self._send(body))
        try:
            async with asyncio.timeout(self._total_timeout_s):
                await asyncio.wait({polling, sending}, return_when=asyncio.FIRST_COMPLETED)
                if not sending.done():
                    polling.result()
                response = await sending
        except TimeoutError:
            self._interrupt()
            raise EngineTimeout(f"{THE_ENGINE} did not finish within {self._total_timeout_s:g} s") from None
        except (asyncio.CancelledError, EngineTimeout):
            self._interrupt()
            raise
        finally:
            for task in (polling, sending):
                task.cancel()
            await asyncio.gather(polling, sending, return_exceptions=True)
        on_progress(request.steps, request.steps)
        return await PICTURES.run(self._to_image, response, model, request, options)

    def _weights(self, model: str) -> str:
        known = self._models.get(model)
        return self._entry.names.get(model, known.weights if known else model)

    def _is_trailing(self, model: str) -> bool:
        return model in self._models and self._models[model].schedule == "trailing"

    def _body(self, model: str, request: ImageRequest, options: WebuiOptions) -> dict[str, Any]:
        weights = self._weights(model)
        checkpoint = options.checkpoint(weights)
        if checkpoint is None:
            raise EngineError(f"{THE_ENGINE} does not have this model")
        return {
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "steps": request.steps,
            "cfg_scale": request.cfg_scale,
            "width": -(-request.width // 8) * 8,
            "height": -(-request.height // 8) * 8,
            "seed": request.seed,
            "batch_size": 1,
            "n_iter": 1,
            "send_images": True,
            "save_images": False,
            "override_settings": {
                "sd_model_checkpoint": checkpoint,
                # Take all steps, also of a weak edit.
                **({"img2img_fix_steps": True} if request.images else {}),
            },
            # Restoring the previous checkpoint would load two checkpoints for each image.
            "override_settings_restore_afterwards": False,
            **options.sampler(request.scheduler, trailing=self._is_trailing(model)),
            **(_edit_fields(request) if request.images else {}),
        }

    async def _send(self, body: dict[str, Any]) -> _WebuiResponse:
        path = "/sdapi/v1/img2img" if "init_images" in body else "/sdapi/v1/txt2img"
        response = await self._remote.request(
            self._client, "POST", path, body=_encode(body), read_timeout_s=self._total_timeout_s + 1
        )
        if response.status != 200:
            status, raw = response.status, await read_error_body(response)
            raise webui_failure(status, raw)
        try:
            return msgspec.json.decode(await self._remote.read(response), type=_WebuiResponse)
        except msgspec.DecodeError as error:
            raise EngineError(f"{THE_ENGINE} sent an invalid image response") from error

    def _to_image(
        self, response: _WebuiResponse, model: str, request: ImageRequest, options: WebuiOptions
    ) -> GeneratedImage:
        if not response.images:
            raise EngineError(f"{THE_ENGINE} sent no image: it was interrupted at the web UI")
        try:
            data = base64.b64decode(response.images[0].rpartition(",")[2], validate=True)
        except binascii.Error as error:
            raise EngineError(f"{THE_ENGINE} sent an invalid image response") from error
        image = cover(decode_image(data), request.width, request.height)
        served = response.served_model() or self._weights(model)
        sampler = options.sampler(request.scheduler, trailing=self._is_trailing(model))
        schedule = TRAILING if sampler.get("scheduler") == TRAILING else ""
        text = parameters_text(request, model, schedule=schedule)
        return GeneratedImage(png=encode_result(image, request, text), model=served)

    # ── its options and its progress ─────────────────────────────────────────────────────────────────────

    async def _options_for(self, weights: str) -> WebuiOptions:
        if self._options is None or self._options.checkpoint(weights) is None:
            await self._refresh()
        assert self._options is not None
        return self._options

    async def _refresh(self) -> None:
        """Fetch checkpoints, samplers and schedulers. Jobs for this engine stay queued until that succeeds."""
        self.is_up = False
        checkpoints = await self._get("/sdapi/v1/sd-models")
        samplers = await self._get("/sdapi/v1/samplers")
        schedulers = await self._get("/sdapi/v1/schedulers", absent=[])
        self._options = WebuiOptions.of(checkpoints, samplers, schedulers, self.name)
        self.is_up = True

    async def _refresh_forever(self) -> None:
        while True:
            try:
                await self._refresh()
            except EngineError as error:
                log.warning("%s", error)
            await asyncio.sleep(self._refresh_every_s if self.is_up else min(self._refresh_every_s, _RETRY_S))

    async def _get(self, path: str, absent: Any = None) -> Any:
        response = await self._remote.request(self._client, "GET", path, read_timeout_s=_SHORT_TIMEOUT_S)
        if response.status != 200:
            status, raw = response.status, await read_error_body(response)
            if status == 404 and absent is not None:
                return absent
            raise webui_failure(status, raw)
        try:
            return msgspec.json.decode(await self._remote.read(response))
        except msgspec.DecodeError as error:
            raise EngineError(f"{THE_ENGINE} sent something other than JSON for {path}") from error

    async def _poll_progress(self, steps: int, on_progress: OnProgress) -> None:
        """Report progress until cancelled. Raises EngineTimeout once the web UI does not respond."""
        reported = failed_polls = 0
        while True:
            await asyncio.sleep(self._poll_every_s)
            try:
                progress = await self._get("/sdapi/v1/progress?skip_current_image=true")
                state = progress["state"]
                # Two-call samplers count model calls there, so scale their share to the steps.
                step = int(steps * min(1.0, int(state["sampling_step"]) / max(1, int(state["sampling_steps"]))))
                failed_polls = 0
            except (EngineError, KeyError, TypeError, ValueError):
                failed_polls += 1
                if failed_polls == _MAX_FAILED_POLLS:
                    raise EngineTimeout(f"{THE_ENGINE} hangs: it does not report its progress") from None
                continue
            if reported < step < steps:
                reported = step
                on_progress(step, steps)

    def _interrupt(self) -> None:
        if self.max_concurrency > 1:
            return  # The interrupt would hit an arbitrary one of its images.
        task = asyncio.create_task(self._post_interrupt())
        self._interrupts.add(task)
        task.add_done_callback(self._interrupts.discard)

    async def _post_interrupt(self) -> None:
        with suppress(EngineError):
            response = await self._remote.request(
                self._client, "POST", "/sdapi/v1/interrupt", read_timeout_s=_SHORT_TIMEOUT_S
            )
            await read_error_body(response)


def _edit_fields(request: ImageRequest) -> dict[str, Any]:
    """Return the fields of img2img. White parts of a mask are redrawn, there as here."""
    fields: dict[str, Any] = {
        "init_images": [base64.b64encode(request.images[0]).decode()],
        "denoising_strength": request.strength,
        "resize_mode": 0,
    }
    if request.mask is not None:
        fields |= {
            "mask": base64.b64encode(request.mask).decode(),
            "mask_blur": 0,
            "inpainting_mask_invert": 0,
            # Begin with the image itself, and show all of it.
            "inpainting_fill": 1,
            "inpaint_full_res": False,
        }
    return fields


class _WebuiResponse(msgspec.Struct):
    images: list[str] = []
    info: str = ""

    def served_model(self) -> str:
        """Return the checkpoint that the web UI reports."""
        try:
            info = msgspec.json.decode(self.info)
        except msgspec.DecodeError:
            return ""
        name = info.get("sd_model_name") if isinstance(info, dict) else None
        return name if isinstance(name, str) else ""


# ── what a web UI offers: checkpoints, samplers and schedulers ────────────────────────────────────────────────

#: The web UI's names of schedules. Its default ("Automatic") means Karras for half of the samplers.
DISCRETE, KARRAS, TRAILING = "Uniform", "Karras", "SGM Uniform"
_OUT_OF_MEMORY = re.compile("out ?of ?memory", re.IGNORECASE)


class _Checkpoint(msgspec.Struct):
    title: str
    model_name: str = ""
    filename: str = ""


class _Named(msgspec.Struct):
    name: str
    label: str = ""
    aliases: list[str] | None = None


class WebuiOptions(msgspec.Struct, frozen=True):
    """Checkpoint titles by lower-case name without extension, samplers, and schedulers.

    Before AUTOMATIC1111 1.9, `DPM++ 2M Karras` was a sampler; since then, and in Forge, it is the sampler `DPM++ 2M`
    with the scheduler `Karras`. `schedulers` is empty for the old form.
    """

    titles: dict[str, str]
    samplers: frozenset[str]
    schedulers: frozenset[str]

    @staticmethod
    def of(checkpoints: Any, samplers: Any, schedulers: Any, engine: str) -> WebuiOptions:
        """Parse the three lists of the API. Raises EngineError if they have another form."""
        try:
            parsed = msgspec.convert(checkpoints, list[_Checkpoint])
            methods = msgspec.convert(samplers, list[_Named])
            plans = msgspec.convert(schedulers, list[_Named])
        except msgspec.ValidationError as error:
            raise EngineError(f"{engine} is not a supported web UI: {error}") from None
        titles: dict[str, str] = {}
        for checkpoint in parsed:
            for name in (
                re.split(r"[/\\]", checkpoint.filename)[-1],
                checkpoint.model_name,
                checkpoint.title,
                checkpoint.title.split(" [")[0],
            ):
                titles.setdefault(bare_name(name), checkpoint.title)
        names = frozenset(label for plan in plans for label in (plan.name, plan.label) if label)
        return WebuiOptions(titles, frozenset(method.name for method in methods), names)

    def checkpoint(self, weights: str) -> str | None:
        """Return the title of a checkpoint, named with or without extension and hash, or None."""
        return self.titles.get(bare_name(re.split(r"[/\\]", weights)[-1]))

    def sampler(self, scheduler: str, *, trailing: bool) -> dict[str, str]:
        """Return the API's fields for one of the eighteen schedulers. Raises EngineRefused if it is missing."""
        method = scheduler.removesuffix(" Karras")
        if not self.schedulers:
            fields = {"sampler_name": scheduler}
        elif method == "DPM fast":
            fields = {"sampler_name": method, "scheduler": "Automatic"}
        else:
            plain = TRAILING if trailing and TRAILING in self.schedulers else DISCRETE
            fields = {"sampler_name": method, "scheduler": KARRAS if method != scheduler else plain}
        if fields["sampler_name"] not in self.samplers:
            raise EngineRefused(f"this model has no sampler {fields['sampler_name']!r}", param="scheduler")
        return fields


def bare_name(name: str) -> str:
    """Return a checkpoint's file name in lower case and without extension."""
    return re.sub(r"\.(safetensors|ckpt|gguf)$", "", name.strip().lower())


def webui_failure(status: int, raw: bytes) -> EngineError:
    """Translate an error response: `detail` explains bad requests, `errors` mentions out of memory."""
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        body = {}
    detail = body.get("detail") if isinstance(body, dict) else None
    text = detail if isinstance(detail, str) else str(detail or "")
    if _OUT_OF_MEMORY.search(raw.decode("utf-8", "replace")):
        return EngineError(f"{THE_ENGINE} is out of memory")
    if status in (400, 422) or (status == 404 and "sampler" in text.lower()):
        return EngineRefused(
            (words_for_caller(text[:300]) if isinstance(detail, str) else text[:300])
            or f"{THE_ENGINE} refused the request"
        )
    if status == 404:
        return EngineError(f"{THE_ENGINE} does not have this API")
    return EngineError(f"{THE_ENGINE} failed with status {status}")
