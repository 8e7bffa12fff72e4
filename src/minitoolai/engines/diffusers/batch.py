"""Pictures under way on one checkpoint: each with its own sampler, steps, guidance and prompt, one call for all."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, NamedTuple

from minitoolai.engines.diffusers.checkpoint import Networks
from minitoolai.engines.diffusers.conditioning import Conditioning, Told
from minitoolai.engines.images.codec import covering, parameters_text, png_with
from minitoolai.engines.protocols import FailedImage, GeneratedImage, ImageRequest, OnProgress
from minitoolai.engines.sampling import Trajectory, model_calls, trajectory
from minitoolai.engines.sampling.noise import GrownNoise
from minitoolai.engines.sampling.schedules import TIMESTEPS, noise_table

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

# (merged from diffusers_painter) One checkpoint on one device: many rows through its UNet in one call, and latents through its VAE.
# (merged from diffusers_painter)
# (merged from diffusers_painter) Rows may differ in noise level, prompt and number of windows; what is padded is masked, so that no row sees another.
# (merged from diffusers_painter) Where memory does not suffice, calls get smaller before pictures fail.


class Row(NamedTuple):
    """One question to the UNet: latents (4, h, w) at noise level sigma, under a prompt."""

    x: torch.Tensor
    sigma: float
    told: Told


class Denoiser:
    """Networks at work. `free_memory` is asked to make room before a call is made smaller; True: it made some."""

    def __init__(
        self, networks: Networks, device: torch.device, *, rows_per_call: int, free_memory: Callable[[], bool]
    ) -> None:
        self.networks = networks
        self.device = device
        self.conditioning = Conditioning(networks, device)
        self._rows_per_call = rows_per_call
        self._free_memory = free_memory
        #: Rows of one call that memory was found to allow, by latent size.
        self._limits: dict[tuple[int, ...], int] = {}

    # ── the UNet ──────────────────────────────────────────────────────────────────────────────────────────

    def denoise(self, rows: Sequence[Row]) -> list[torch.Tensor | None]:
        """x0 (4, h, w), float32, of each row; None where memory does not suffice for that row alone."""
        answers: list[torch.Tensor | None] = []
        while len(answers) < len(rows):
            size = tuple(rows[0].x.shape)
            most = self._limits.get(size, self._rows_per_call)
            some = rows[len(answers) : len(answers) + most]
            try:
                answers += self._call(some)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            else:
                continue
            # Out of the handler, so that the failed call's tensors are no longer held by its traceback.
            self._empty_cache()
            if self._free_memory():
                continue
            if len(some) == 1:
                answers.append(None)
            else:
                self._limits[size] = len(some) // 2
        return answers

    def _call(self, rows: Sequence[Row]) -> list[torch.Tensor]:
        import torch

        unet: Any = self.networks.unet
        sigmas = torch.tensor([row.sigma for row in rows], device=self.device)[:, None, None, None]
        scale = 1 / torch.sqrt(sigmas**2 + 1)
        x = torch.stack([row.x for row in rows])
        with torch.inference_mode():
            words, mask = _padded([row.told.words for row in rows])
            answer = unet(
                (x * scale).to(unet.dtype),
                torch.tensor([timestep_of(row.sigma) for row in rows], device=self.device),
                encoder_hidden_states=words,
                encoder_attention_mask=mask,
                added_cond_kwargs=self._added(rows),
                return_dict=False,
            )[0].float()
            predicts_v = self.networks.predicts_v
            x0 = x * scale**2 - answer * sigmas * scale if predicts_v else x - answer * sigmas
        return list(x0)

    def _added(self, rows: Sequence[Row]) -> dict[str, torch.Tensor] | None:
        """What SDXL is told besides words: the prompt as a whole; original size, crop and target size in pixels."""
        import torch

        if not self.networks.is_xl:
            return None
        height, width = (8 * side for side in rows[0].x.shape[-2:])
        times = torch.tensor([[height, width, 0, 0, height, width]] * len(rows), device=self.device)
        pooled = torch.stack([row.told.pooled for row in rows if row.told.pooled is not None])
        return {"text_embeds": pooled, "time_ids": times.to(pooled.dtype)}

    # ── the VAE ───────────────────────────────────────────────────────────────────────────────────────────

    def decode(self, latents: torch.Tensor) -> NDArray[np.uint8] | None:
        """Pixels (8 h, 8 w, 3) of latents (4, h, w); None where memory does not suffice, not even in tiles.

        SDXL's VAE overflows in float16 and some in bfloat16: what is not finite is decoded again in float32, and so
        is every picture from then on.
        """
        import torch

        vae: Any = self.networks.vae
        pixels = self._decoded(latents)
        if pixels is not None and not bool(pixels.isfinite().all()) and vae.dtype != torch.float32:
            vae.to(dtype=torch.float32)
            pixels = self._decoded(latents)
        if pixels is None:
            return None
        bright = (pixels * 127.5 + 127.5).nan_to_num(0.0).clamp(0, 255).round().to(torch.uint8)
        drawn: NDArray[np.uint8] = bright.permute(1, 2, 0).cpu().numpy()
        return drawn

    def _decoded(self, latents: torch.Tensor) -> torch.Tensor | None:
        """The picture whole; in tiles, where that takes too much memory; None where tiles do, too."""
        for in_tiles in (False, True):
            for _ in range(2):
                try:
                    return self._decode_once(latents, in_tiles=in_tiles)
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                self._empty_cache()
                if not self._free_memory():
                    break
        return None

    def _decode_once(self, latents: torch.Tensor, *, in_tiles: bool) -> torch.Tensor:
        import torch

        vae: Any = self.networks.vae
        vae.use_tiling = in_tiles
        with torch.inference_mode():
            scaled = (latents / vae.config.scaling_factor)[None].to(vae.dtype)
            decoded: torch.Tensor = vae.decode(scaled, return_dict=False)[0][0].float()
        return decoded

    def _empty_cache(self) -> None:
        import torch

        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def timestep_of(sigma: float) -> float:
    """Where a noise level lies among the 1000 of training, between two of them linear in ln sigma."""
    table = noise_table()
    above = min(max(bisect.bisect_left(table, sigma), 1), TIMESTEPS - 1)
    low, high = math.log(table[above - 1]), math.log(table[above])
    share = (math.log(sigma) - low) / (high - low)
    return above - 1 + min(max(share, 0.0), 1.0)


def is_out_of_memory(error: RuntimeError) -> bool:
    """torch's own error, or one of the libraries below it that says so in words."""
    import torch

    said = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in said or "can't allocate memory" in said


def _padded(words: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(N, L, width), L that of the longest, and which of them are there (N, L); None where all are as long."""
    import torch

    longest = max(len(one) for one in words)
    if all(len(one) == longest for one in words):
        return torch.stack(list(words)), None
    padded = torch.stack([torch.nn.functional.pad(one, (0, 0, 0, longest - len(one))) for one in words])
    there = [[1.0] * len(one) + [0.0] * (longest - len(one)) for one in words]
    return padded, torch.tensor(there, device=padded.device)


#: What A1111 and its readers call timesteps that trail.
TRAILING = "SGM Uniform"
_CHANNELS, _PIXELS_PER_LATENT = 4, 8
#: PNGs are packed beside the next model call.
_PACKERS = 2


class _BatchImage:
    """One picture under way: where its sampler stands and what it is told."""

    def __init__(
        self, painter: Denoiser, request: ImageRequest, on_progress: OnProgress | None, *, trailing: bool
    ) -> None:
        self.request = request
        self._on_progress = on_progress
        self._calls, self._calls_total = 0, model_calls(request.scheduler, request.steps)
        self._wanted = painter.conditioning.of(request.prompt)
        self._unwanted = None
        if request.cfg_scale != 1:
            self._unwanted = painter.conditioning.of(request.negative_prompt, is_negative=True)
        shape = _CHANNELS, -(-request.height // _PIXELS_PER_LATENT), -(-request.width // _PIXELS_PER_LATENT)
        noise = GrownNoise(request.seed % 2**64, shape)

        def on_device(array: NDArray[np.float32]) -> torch.Tensor:
            import torch

            return torch.from_numpy(array).to(painter.device)

        self._path: Trajectory = trajectory(
            request.scheduler,
            request.steps,
            on_device(noise.start()),
            lambda sigma, following: on_device(noise(sigma, following)),
            trailing=trailing,
        )
        self._x, self._sigma = next(self._path)

    def rows(self) -> list[Row]:
        """What the model is asked: with guidance 1 the unwanted has no weight and is not asked for."""
        wanted = Row(self._x, self._sigma, self._wanted)
        return [wanted] if self._unwanted is None else [wanted, Row(self._x, self._sigma, self._unwanted)]

    def advance(self, answers: Sequence[torch.Tensor]) -> torch.Tensor | None:
        """Take the model's answers to `rows`; the finished latents, if these were the last."""
        denoised = answers[0]
        if len(answers) > 1:
            denoised = answers[1] + (denoised - answers[1]) * self.request.cfg_scale
        self._calls += 1
        if self._on_progress is not None:
            self._on_progress(self._calls * self.request.steps // self._calls_total, self.request.steps)
        try:
            self._x, self._sigma = self._path.send(denoised)
        except StopIteration as end:
            finished: torch.Tensor = end.value
            return finished
        return None


class DiffusersBatch:
    """Pictures under way. What one looks like never depends on what is drawn beside it."""

    def __init__(self, load: Callable[[], Denoiser], *, trailing: bool) -> None:
        self._load, self._trailing = load, trailing
        #: None while nothing is drawn here, so that the weights may leave.
        self.painter: Denoiser | None = None
        self._pictures: dict[int, _BatchImage] = {}
        self._packing: dict[int, Future[GeneratedImage]] = {}
        self._packers: ThreadPoolExecutor | None = None
        self._next_ticket = 0

    def __len__(self) -> int:
        return len(self._pictures) + len(self._packing)

    def add(self, request: ImageRequest, on_progress: OnProgress | None = None) -> int:
        """Begin a picture. ValueError for an unknown scheduler, EngineError where the weights cannot be loaded."""
        if self.painter is None:
            self.painter = self._load()
        picture = _BatchImage(self.painter, request, on_progress, trailing=self._trailing)
        self._next_ticket += 1
        self._pictures[self._next_ticket] = picture
        return self._next_ticket

    def remove(self, ticket: int) -> None:
        self._pictures.pop(ticket, None)
        self._packing.pop(ticket, None)
        self._rest()

    def step(self) -> list[GeneratedImage | FailedImage]:
        """One model call for all (in parts, where memory does not suffice), then decode those that it finished."""
        failed = self._advance()
        ended: list[GeneratedImage | FailedImage] = [*failed, *self._packed(may_wait=not self._pictures and not failed)]
        self._rest()
        return ended

    def _advance(self) -> list[FailedImage]:
        if not self._pictures or self.painter is None:
            return []
        asked = {ticket: picture.rows() for ticket, picture in self._pictures.items()}
        answers = iter(self.painter.denoise([row for rows in asked.values() for row in rows]))
        failed = []
        for ticket, rows in asked.items():
            own = [next(answers) for _ in rows]
            there = [answer for answer in own if answer is not None]
            latents = self._pictures[ticket].advance(there) if len(there) == len(own) else None
            if len(there) < len(own) or (latents is not None and not self._finish(ticket, latents)):
                request = self._pictures.pop(ticket).request
                why = f"out of memory for one picture of {request.width} by {request.height}"
                failed.append(FailedImage(ticket=ticket, error=why))
        return failed

    def _finish(self, ticket: int, latents: torch.Tensor) -> bool:
        """Decode, and pack in the background; False where there is no memory to decode."""
        assert self.painter is not None
        pixels = self.painter.decode(latents)
        if pixels is None:
            return False
        if self._packers is None:
            self._packers = ThreadPoolExecutor(_PACKERS, "png")
        request, name = self._pictures.pop(ticket).request, self.painter.networks.name
        self._packing[ticket] = self._packers.submit(_packed, ticket, pixels, request, name, self._schedule(request))
        return True

    def _schedule(self, request: ImageRequest) -> str:
        has_own = request.scheduler.endswith(" Karras") or request.scheduler == "DPM fast"
        return TRAILING if self._trailing and not has_own else ""

    def _packed(self, *, may_wait: bool) -> list[GeneratedImage]:
        if may_wait and self._packing:
            wait(self._packing.values(), return_when=FIRST_COMPLETED)
        done = [ticket for ticket, future in self._packing.items() if future.done()]
        return [self._packing.pop(ticket).result() for ticket in done]

    def _rest(self) -> None:
        if len(self) == 0:
            self.painter = None
            if self._packers is not None:
                self._packers.shutdown(wait=False)
                self._packers = None


def _packed(ticket: int, pixels: NDArray[Any], request: ImageRequest, model: str, schedule: str) -> GeneratedImage:
    """Cut to the size asked for, which the latents cover to less than eight pixels, and pack."""
    from PIL import Image

    picture = covering(Image.fromarray(pixels), request.width, request.height)
    png = png_with(picture, parameters_text(request, model, schedule=schedule))
    return GeneratedImage(ticket=ticket, png=png, model=model)
