"""AUTOMATIC1111's or Forge's web UI (`/sdapi/v1`, started with --api) as an image engine.

It draws one picture at a time in one process, so we ask for one at a time, read its progress meanwhile, and interrupt
it when nobody waits any more.
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

from minitoolai.core.catalog import EngineEntry, ImageModel
from minitoolai.core.errors import EngineError, EngineRefused, EngineTimeout
from minitoolai.engines.images.codec import covering, parameters_text, png_with, read_picture
from minitoolai.engines.images.remote import Remote
from minitoolai.engines.protocols import GeneratedImage, ImageRequest, OnProgress
from minitoolai.httpclient.client import HttpClient

# (merged from webui_facts) What a web UI has: checkpoints, samplers and, since AUTOMATIC1111 1.9 and in Forge, schedulers of their own.
# (merged from webui_facts)
# (merged from webui_facts) Before, `DPM++ 2M Karras` was one sampler; since, it is the sampler `DPM++ 2M` on the scheduler `Karras`.

#: The web UI's names of schedules. Left to itself ("Automatic") it would take Karras for half of the samplers.
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


class WebuiFacts(msgspec.Struct, frozen=True):
    """`titles`: by lower-case name without ending. `schedulers` is empty where samplers have joined names."""

    titles: dict[str, str]
    samplers: frozenset[str]
    schedulers: frozenset[str]

    @staticmethod
    def of(checkpoints: Any, samplers: Any, schedulers: Any, engine: str) -> WebuiFacts:
        """From its three lists. EngineError where they are something else."""
        try:
            known = msgspec.convert(checkpoints, list[_Checkpoint])
            methods = msgspec.convert(samplers, list[_Named])
            plans = msgspec.convert(schedulers, list[_Named])
        except msgspec.ValidationError as error:
            raise EngineError(f"{engine} is no web UI as we know it: {error}") from None
        titles: dict[str, str] = {}
        for one in known:
            for name in (re.split(r"[/\\]", one.filename)[-1], one.model_name, one.title, one.title.split(" [")[0]):
                titles.setdefault(bare(name), one.title)
        names = frozenset(label for plan in plans for label in (plan.name, plan.label) if label)
        return WebuiFacts(titles, frozenset(method.name for method in methods), names)

    def checkpoint(self, weights: str) -> str | None:
        """Its title for a file's name, with or without ending and hash, or None where it has no such file."""
        return self.titles.get(bare(re.split(r"[/\\]", weights)[-1]))

    def sampler(self, scheduler: str, *, trailing: bool, engine: str) -> dict[str, str]:
        """The fields that mean one of our eighteen names there. EngineRefused where it has no such sampler."""
        method = scheduler.removesuffix(" Karras")
        if not self.schedulers:
            fields = {"sampler_name": scheduler}
        elif method == "DPM fast":
            fields = {"sampler_name": method, "scheduler": "Automatic"}
        else:
            plain = TRAILING if trailing and TRAILING in self.schedulers else DISCRETE
            fields = {"sampler_name": method, "scheduler": KARRAS if method != scheduler else plain}
        if fields["sampler_name"] not in self.samplers:
            raise EngineRefused(f"{engine} has no sampler {fields['sampler_name']!r}", param="scheduler")
        return fields


def bare(name: str) -> str:
    """A file's name as people write it: without ending, in lower case."""
    return re.sub(r"\.(safetensors|ckpt|gguf)$", "", name.strip().lower())


def failure_of(status: int, raw: bytes, engine: str) -> EngineError:
    """A web UI's refusal as ours. It says what is wrong with a request in `detail`, and out of memory in `errors`."""
    try:
        said = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        said = {}
    detail = said.get("detail") if isinstance(said, dict) else None
    text = detail if isinstance(detail, str) else str(detail or "")
    if _OUT_OF_MEMORY.search(raw.decode("utf-8", "replace")):
        return EngineError(f"{engine} is out of memory")
    if status in (400, 422) or (status == 404 and "sampler" in text.lower()):
        return EngineRefused(f"{engine}: {text[:300] or 'the request was refused'}")
    if status == 404:
        return EngineError(f"{engine} does not know this path: start it with --api")
    return EngineError(f"{engine} failed with status {status}")


_LOG = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode
_TOTAL_S = 600.0
_SHORT_S = 10.0
_AGAIN_S = 5.0
#: It answers nothing for this many looks at its progress in a row: it hangs.
_LOOKS = 3


class WebuiEngine:
    """One web UI. `look_every_s`: between looks at its progress; `learn_every_s`: at its checkpoints."""

    def __init__(
        self,
        remote: Remote,
        entry: EngineEntry,
        client: HttpClient,
        models: dict[str, ImageModel],
        *,
        look_every_s: float = 0.5,
        learn_every_s: float = 30.0,
    ) -> None:
        self.name = remote.name
        self.rows = entry.concurrency or 1
        self.is_up = not remote.fault
        self._remote, self._entry, self._client, self._models = remote, entry, client, models
        self._total_s = entry.total_timeout_s or _TOTAL_S
        self._look_every_s, self._learn_every_s = look_every_s, learn_every_s
        self._facts: WebuiFacts | None = None
        self._learner: asyncio.Task[None] | None = None
        self._interrupts: set[asyncio.Task[None]] = set()

    def why_not_ready(self, model: str) -> str | None:
        if self._remote.fault:
            return self._remote.fault
        weights = self._weights(model)
        if self._facts is not None and self._facts.checkpoint(weights) is None:
            return f"the web UI has no checkpoint {weights}: put it into its models/Stable-diffusion"
        return None

    def batch_key(self, model: str, width: int, height: int) -> str:
        """Pictures of one checkpoint in a row spare the web UI a change."""
        return self._weights(model)

    async def start(self) -> None:
        """Ask what it has, and again from time to time; a web UI that is down is no reason not to start."""
        if not self._remote.fault and self._learner is None:
            self._learner = asyncio.create_task(self._learn_on())
            await asyncio.sleep(0)

    async def stop(self) -> None:
        tasks = [task for task in (self._learner, *self._interrupts) if task is not None]
        self._learner = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def draw(self, model: str, request: ImageRequest, on_progress: OnProgress) -> GeneratedImage:
        """One picture. Cancelled, it tells the web UI to stop."""
        # An interrupt on its way would hit this picture instead of the one it was meant for.
        await asyncio.gather(*self._interrupts, return_exceptions=True)
        facts = await self._learnt(self._weights(model))
        body = self._body(model, request, facts)
        looking = asyncio.create_task(self._look_on(request.steps, on_progress))
        drawing = asyncio.create_task(self._send(body))
        try:
            async with asyncio.timeout(self._total_s):
                await asyncio.wait({looking, drawing}, return_when=asyncio.FIRST_COMPLETED)
                if not drawing.done():
                    looking.result()
                answer = await drawing
        except TimeoutError:
            self._interrupt()
            raise EngineTimeout(f"{self.name} drew for longer than {self._total_s:g} s") from None
        except (asyncio.CancelledError, EngineTimeout):
            self._interrupt()
            raise
        finally:
            for task in (looking, drawing):
                task.cancel()
            await asyncio.gather(looking, drawing, return_exceptions=True)
        on_progress(request.steps, request.steps)
        return await asyncio.to_thread(self._finished, answer, model, request, facts)

    def _weights(self, model: str) -> str:
        known = self._models.get(model)
        return self._entry.names.get(model, known.weights if known else model)

    def _trails(self, model: str) -> bool:
        return model in self._models and self._models[model].schedule == "trailing"

    def _body(self, model: str, request: ImageRequest, facts: WebuiFacts) -> dict[str, Any]:
        weights = self._weights(model)
        checkpoint = facts.checkpoint(weights)
        if checkpoint is None:
            raise EngineError(f"{self.name} has no checkpoint {weights}")
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
            "override_settings": {"sd_model_checkpoint": checkpoint},
            # Restoring the checkpoint it had before would load twice for each picture.
            "override_settings_restore_afterwards": False,
            **facts.sampler(request.scheduler, trailing=self._trails(model), engine=self.name),
        }

    async def _send(self, body: dict[str, Any]) -> _WebuiResponse:
        answer = await self._remote.request(
            self._client, "POST", "/sdapi/v1/txt2img", body=_encode(body), silence_s=self._total_s + 1
        )
        if answer.status != 200:
            status, raw = answer.status, await self._remote.read_error(answer)
            raise failure_of(status, raw, self.name)
        try:
            return msgspec.json.decode(await self._remote.read(answer), type=_WebuiResponse)
        except msgspec.DecodeError as error:
            raise EngineError(f"{self.name} answered something that is no picture") from error

    def _finished(self, answer: _WebuiResponse, model: str, request: ImageRequest, facts: WebuiFacts) -> GeneratedImage:
        if not answer.images:
            raise EngineError(f"{self.name} answered without a picture; it was interrupted there")
        try:
            data = base64.b64decode(answer.images[0].rpartition(",")[2], validate=True)
        except binascii.Error as error:
            raise EngineError(f"{self.name} answered something that is no picture") from error
        picture = covering(read_picture(data, self.name), request.width, request.height)
        served = answer.served_model() or self._weights(model)
        asked = facts.sampler(request.scheduler, trailing=self._trails(model), engine=self.name)
        schedule = TRAILING if asked.get("scheduler") == TRAILING else ""
        text = parameters_text(request, served, schedule=schedule)
        return GeneratedImage(png=png_with(picture, text), model=served)

    # ── what it has, and how far it is ────────────────────────────────────────────────────────────────────

    async def _learnt(self, weights: str) -> WebuiFacts:
        if self._facts is None or self._facts.checkpoint(weights) is None:
            await self._learn()
        assert self._facts is not None
        return self._facts

    async def _learn(self) -> None:
        """Ask what it has. Where it does not say, its pictures wait until it does again."""
        self.is_up = False
        checkpoints = await self._get("/sdapi/v1/sd-models")
        samplers = await self._get("/sdapi/v1/samplers")
        schedulers = await self._get("/sdapi/v1/schedulers", absent=[])
        self._facts = WebuiFacts.of(checkpoints, samplers, schedulers, self.name)
        self.is_up = True

    async def _learn_on(self) -> None:
        while True:
            try:
                await self._learn()
            except EngineError as error:
                _LOG.warning("%s", error)
            await asyncio.sleep(self._learn_every_s if self.is_up else min(self._learn_every_s, _AGAIN_S))

    async def _get(self, path: str, absent: Any = None) -> Any:
        answer = await self._remote.request(self._client, "GET", path, silence_s=_SHORT_S)
        if answer.status != 200:
            status, raw = answer.status, await self._remote.read_error(answer)
            if status == 404 and absent is not None:
                return absent
            raise failure_of(status, raw, self.name)
        try:
            return msgspec.json.decode(await self._remote.read(answer))
        except msgspec.DecodeError as error:
            raise EngineError(f"{self.name} answers {path} with something else than JSON") from error

    async def _look_on(self, steps: int, on_progress: OnProgress) -> None:
        """Tell how far it is until cancelled; EngineTimeout once it does not answer any more."""
        told, silent = 0, 0
        while True:
            await asyncio.sleep(self._look_every_s)
            try:
                progress = await self._get("/sdapi/v1/progress?skip_current_image=true")
                state = progress["state"]
                # A two-call sampler counts its calls there, so its share is the better measure.
                step = int(steps * min(1.0, int(state["sampling_step"]) / max(1, int(state["sampling_steps"]))))
                silent = 0
            except (EngineError, KeyError, TypeError, ValueError):
                silent += 1
                if silent == _LOOKS:
                    raise EngineTimeout(f"{self.name} hangs: it no longer tells its progress") from None
                continue
            if told < step < steps:
                told = step
                on_progress(step, steps)

    def _interrupt(self) -> None:
        if self.rows > 1:
            return  # It would hit whichever picture is being drawn there.
        task = asyncio.create_task(self._post_interrupt())
        self._interrupts.add(task)
        task.add_done_callback(self._interrupts.discard)

    async def _post_interrupt(self) -> None:
        with suppress(EngineError):
            answer = await self._remote.request(self._client, "POST", "/sdapi/v1/interrupt", silence_s=_SHORT_S)
            await self._remote.read_error(answer)


class _WebuiResponse(msgspec.Struct):
    images: list[str] = []
    info: str = ""

    def served_model(self) -> str:
        """The checkpoint that it says it drew with."""
        try:
            info = msgspec.json.decode(self.info)
        except msgspec.DecodeError:
            return ""
        name = info.get("sd_model_name") if isinstance(info, dict) else None
        return name if isinstance(name, str) else ""
