"""Batched denoising: images in flight on one checkpoint share each UNet call (continuous batching).

Each image has its own sampler, steps, guidance and prompt. Rows of a call may differ in noise level, prompt and number
of prompt windows; padding is masked, so no row affects another. If memory runs out, calls are made smaller before an
image fails.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from minitoolai.core.errors import EngineError
from minitoolai.engines.diffusers.checkpoint import Networks
from minitoolai.engines.diffusers.conditioning import Conditioning, PromptEncoder
from minitoolai.engines.diffusers.lora import LoraLibrary, UsedLoras, applied
from minitoolai.engines.diffusers.lora_files import IMAGE
from minitoolai.engines.images.codec import cover, encode_result, parameters_text
from minitoolai.engines.images.editing.pixels import mask_of, original
from minitoolai.engines.protocols import FailedImage, GeneratedImage, ImageRequest, OnProgress
from minitoolai.engines.sampling import Trajectory, model_calls, trajectory
from minitoolai.engines.sampling.noise import LazySeededNoise
from minitoolai.engines.sampling.schedules import TIMESTEPS, noise_table

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

#: The name of trailing timesteps in AUTOMATIC1111 and tools that read its metadata.
TRAILING = "SGM Uniform"
_CHANNELS, _PIXELS_PER_LATENT = 4, 8
#: Threads that encode PNGs during the next model call.
_ENCODER_THREADS = 2


class _BatchImage:
    """One image in flight: the state of its sampler and its conditioning."""

    def __init__(
        self,
        denoiser: Denoiser,
        request: ImageRequest,
        on_progress: OnProgress | None,
        *,
        trailing: bool,
        loras: Mapping[str, Path],
    ) -> None:
        self.request = request
        self._on_progress = on_progress
        self.calls, self._calls_total = 0, model_calls(request.scheduler, request.steps)
        prompt, self._loras = denoiser.loras.used_by(request, loras)
        self._positive = denoiser.prompts.encode(prompt, loras=self._loras)
        self._negative = None
        if request.cfg_scale != 1:
            self._negative = denoiser.prompts.encode(request.negative_prompt, is_negative=True, loras=self._loras)
        shape = _CHANNELS, -(-request.height // _PIXELS_PER_LATENT), -(-request.width // _PIXELS_PER_LATENT)
        noise = LazySeededNoise(request.seed % 2**64, shape, noise_table(zero_snr=denoiser.networks.zero_snr)[-1])

        def on_device(array: NDArray[np.float32]) -> torch.Tensor:
            import torch

            return torch.from_numpy(array).to(denoiser.device)

        self._source = denoiser.encode(request) if request.images else None
        self._free = None
        if request.mask is not None:
            self._free = on_device(latent_mask(request, shape[-2:]))
        # A mask that is redrawn completely begins with noise alone, as in diffusers.
        from_source = not (self._free is not None and request.strength == 1)
        self._path: Trajectory = trajectory(
            request.scheduler,
            request.steps,
            on_device(noise.start()),
            lambda sigma, following: on_device(noise(sigma, following)),
            trailing=trailing,
            zero_snr=denoiser.networks.zero_snr,
            strength=request.strength if request.images else 1.0,
            original=self._source if from_source else None,
        )
        self._x, self._sigma = next(self._path)

    def rows(self) -> list[Row]:
        """Return the rows for the next model call. With guidance 1 the negative prompt has no weight: omit its row."""
        conditionings = [self._positive] if self._negative is None else [self._positive, self._negative]
        return [Row(self._x, self._sigma, conditioning, self._loras) for conditioning in conditionings]

    def advance(self, outputs: Sequence[torch.Tensor]) -> torch.Tensor | None:
        """Advance by the model's outputs for `rows`. Return the latents if the image is finished."""
        denoised = outputs[0]
        if len(outputs) > 1:
            denoised = outputs[1] + (denoised - outputs[1]) * self.request.cfg_scale
        if self._free is not None and self._source is not None:
            denoised = self._source + (denoised - self._source) * self._free
        self.calls += 1
        if self._on_progress is not None:
            self._on_progress(self.calls * self.request.steps // self._calls_total, self.request.steps)
        try:
            self._x, self._sigma = self._path.send(denoised)
        except StopIteration as end:
            finished: torch.Tensor = end.value
            return finished
        return None


def no_loras(_: str) -> Mapping[str, Path]:
    """Return no LoRA files for any model."""
    return {}


class DiffusersBatch:
    """Images in flight on one checkpoint. The result of one never depends on the others."""

    def __init__(
        self, load: Callable[[], Denoiser], *, trailing: bool, loras: Callable[[str], Mapping[str, Path]] = no_loras
    ) -> None:
        """`loras` returns the LoRA files of a model of the catalog; several models may share a batch."""
        self._load, self._trailing, self._loras = load, trailing, loras
        #: None while the batch is empty, so that its weights can be unloaded.
        self.denoiser: Denoiser | None = None
        self._images: dict[int, _BatchImage] = {}
        self._encoding: dict[int, Future[GeneratedImage]] = {}
        self._encoders: ThreadPoolExecutor | None = None
        self._last_slot = 0

    def __len__(self) -> int:
        return len(self._images) + len(self._encoding)

    def add(self, request: ImageRequest, on_progress: OnProgress | None = None) -> int:
        """Add an image.

        Raises ValueError for an unknown scheduler, EngineRefused for a LoRA that cannot be used, and EngineError if the
        weights cannot be loaded.
        """
        if self.denoiser is None:
            self.denoiser = self._load()
        image = _BatchImage(
            self.denoiser, request, on_progress, trailing=self._trailing, loras=self._loras(request.model)
        )
        self._last_slot += 1
        self._images[self._last_slot] = image
        return self._last_slot

    def remove(self, slot_id: int) -> None:
        self._images.pop(slot_id, None)
        self._encoding.pop(slot_id, None)
        self._release_if_empty()

    def step(self) -> list[GeneratedImage | FailedImage]:
        """Run one model call for all images (in parts, if memory is short), then decode those that it finished."""
        failed = self._advance()
        ended: list[GeneratedImage | FailedImage] = [*failed, *self._encoded(may_wait=not self._images and not failed)]
        self._release_if_empty()
        return ended

    def _advance(self) -> list[FailedImage]:
        if not self._images or self.denoiser is None:
            return []
        rows_of = {slot_id: image.rows() for slot_id, image in self._images.items()}
        outputs = self.denoiser.denoise([row for rows in rows_of.values() for row in rows])
        finite = iter(are_finite(outputs))
        remaining = iter(outputs)
        failed = []
        for slot_id, rows in rows_of.items():
            own, own_finite = [next(remaining) for _ in rows], [next(finite) for _ in rows]
            fault = self._advance_one(slot_id, own) if all(own_finite) else self._not_finite(slot_id)
            if fault is not None:
                failed.append(fault)
        return failed

    def _advance_one(self, slot_id: int, outputs: Sequence[torch.Tensor | None]) -> FailedImage | None:
        """Advance one image by its own outputs. Return its failure, if it failed."""
        computed = [output for output in outputs if output is not None]
        if len(computed) < len(outputs):
            return self._out_of_memory(slot_id)
        latents = self._images[slot_id].advance(computed)
        return None if latents is None else self._finish(slot_id, latents)

    def _out_of_memory(self, slot_id: int) -> FailedImage:
        request = self._images.pop(slot_id).request
        return FailedImage(slot_id=slot_id, error=f"out of memory for one image of {request.width} by {request.height}")

    def _not_finite(self, slot_id: int) -> FailedImage:
        """Fail an image whose values are not finite. The same request would give them again."""
        image = self._images.pop(slot_id)
        error = f"the model gave values that are not finite (NaN) at call {image.calls + 1}"
        return FailedImage(slot_id=slot_id, error=error, refused=True)

    def _finish(self, slot_id: int, latents: torch.Tensor) -> FailedImage | None:
        """Decode, and encode in the background. Return the failure if that is impossible."""
        assert self.denoiser is not None
        try:
            pixels = self.denoiser.decode(latents)
        except FloatingPointError:
            return self._not_finite(slot_id)
        if pixels is None:
            return self._out_of_memory(slot_id)
        if self._encoders is None:
            self._encoders = ThreadPoolExecutor(_ENCODER_THREADS, "png")
        request = self._images.pop(slot_id).request
        name = self.denoiser.networks.name
        self._encoding[slot_id] = self._encoders.submit(
            _to_image, slot_id, pixels, request, name, self._schedule(request)
        )
        return None

    def _schedule(self, request: ImageRequest) -> str:
        has_own = request.scheduler.endswith(" Karras") or request.scheduler == "DPM fast"
        return TRAILING if self._trailing and not has_own else ""

    def _encoded(self, *, may_wait: bool) -> list[GeneratedImage]:
        if may_wait and self._encoding:
            wait(self._encoding.values(), return_when=FIRST_COMPLETED)
        done = [slot_id for slot_id, future in self._encoding.items() if future.done()]
        return [self._encoding.pop(slot_id).result() for slot_id in done]

    def _release_if_empty(self) -> None:
        if len(self) == 0:
            self.denoiser = None
            if self._encoders is not None:
                self._encoders.shutdown(wait=False)
                self._encoders = None


def _to_image(slot_id: int, pixels: NDArray[Any], request: ImageRequest, model: str, schedule: str) -> GeneratedImage:
    """Crop to the requested size, which the latents exceed by less than eight pixels, and encode as PNG."""
    from PIL import Image

    image = cover(Image.fromarray(pixels), request.width, request.height)
    png = encode_result(image, request, parameters_text(request, model, schedule=schedule))
    return GeneratedImage(slot_id=slot_id, png=png, model=model)


# ── the networks of one checkpoint ────────────────────────────────────────────────────────────────────────────


class Row(NamedTuple):
    """One row of a UNet call: latents (4, h, w) at noise level sigma, the conditioning of a prompt, and its LoRAs."""

    x: torch.Tensor
    sigma: float
    conditioning: Conditioning
    loras: UsedLoras = ()


class Denoiser:
    """Runs the UNet and VAE of one checkpoint on one device.

    When memory runs out, first calls `free_memory`, which returns True if it released any; then makes calls smaller.
    """

    def __init__(
        self, networks: Networks, device: torch.device, *, rows_per_call: int, free_memory: Callable[[], bool]
    ) -> None:
        self.networks = networks
        self.device = device
        self.prompts = PromptEncoder(networks, device)
        self.loras = LoraLibrary(networks.by_name(), device, networks.name)
        self._rows_per_call = rows_per_call
        self._free_memory = free_memory
        #: How many rows of a call fit into memory, by latent size, as learned from failures.
        self._limits: dict[tuple[int, ...], int] = {}

    # ── the UNet ──────────────────────────────────────────────────────────────────────────────────────────

    def denoise(self, rows: Sequence[Row]) -> list[torch.Tensor | None]:
        """Return x0 (4, h, w), float32, for each row, or None if even that row alone does not fit into memory."""
        outputs: list[torch.Tensor | None] = []
        while len(outputs) < len(rows):
            size = tuple(rows[0].x.shape)
            limit = self._limits.get(size, self._rows_per_call)
            chunk = rows[len(outputs) : len(outputs) + limit]
            try:
                outputs += self._call(chunk)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            else:
                continue
            # Outside the except block: its traceback would keep the tensors of the failed call alive.
            self._empty_cache()
            if self._free_memory():
                continue
            if len(chunk) == 1:
                outputs.append(None)
            else:
                self._limits[size] = len(chunk) // 2
        return outputs

    def _call(self, rows: Sequence[Row]) -> list[torch.Tensor]:
        import torch

        unet: Any = self.networks.unet
        sigmas = torch.tensor([row.sigma for row in rows], device=self.device)[:, None, None, None]
        scale = 1 / torch.sqrt(sigmas**2 + 1)
        x = torch.stack([row.x for row in rows])
        loras = applied(IMAGE, [row.loras for row in rows], lambda weight: weight.image)
        with torch.inference_mode(), loras:
            words, mask = _padded([row.conditioning.words for row in rows])
            output = unet(
                (x * scale).to(unet.dtype),
                torch.tensor(
                    [timestep_of(row.sigma, zero_snr=self.networks.zero_snr) for row in rows], device=self.device
                ),
                encoder_hidden_states=words,
                encoder_attention_mask=mask,
                added_cond_kwargs=self._added(rows),
                return_dict=False,
            )[0].float()
            predicts_v = self.networks.predicts_v
            x0 = x * scale**2 - output * sigmas * scale if predicts_v else x - output * sigmas
        return list(x0)

    def _added(self, rows: Sequence[Row]) -> dict[str, torch.Tensor] | None:
        """Return SDXL's additional conditioning: pooled prompt; original size, crop and target size in pixels."""
        import torch

        if not self.networks.is_xl:
            return None
        height, width = (8 * side for side in rows[0].x.shape[-2:])
        times = torch.tensor([[height, width, 0, 0, height, width]] * len(rows), device=self.device)
        pooled = torch.stack([row.conditioning.pooled for row in rows if row.conditioning.pooled is not None])
        return {"text_embeds": pooled, "time_ids": times.to(pooled.dtype)}

    # ── the VAE ───────────────────────────────────────────────────────────────────────────────────────────

    def decode(self, latents: torch.Tensor) -> NDArray[np.uint8] | None:
        """Return the pixels (8 h, 8 w, 3) of latents (4, h, w), or None if not even tiles fit into memory.

        SDXL's VAE overflows in float16, and some VAEs in bfloat16. After a non-finite result, decode this image alone
        in float32; the VAE then has its old type again, and the conversion loses nothing. Raises FloatingPointError if
        the result is not finite even so.
        """
        import torch

        if not bool(latents.isfinite().all()):
            raise FloatingPointError("the latents are not finite")
        vae: Any = self.networks.vae
        pixels, dtype = self._decoded(latents), vae.dtype
        if pixels is not None and not bool(pixels.isfinite().all()) and dtype != torch.float32:
            vae.to(dtype=torch.float32)
            try:
                pixels = self._decoded(latents)
            finally:
                vae.to(dtype=dtype)
        if pixels is None:
            return None
        if not bool(pixels.isfinite().all()):
            raise FloatingPointError("the pixels are not finite")
        bright = (pixels * 127.5 + 127.5).clamp(0, 255).round().to(torch.uint8)
        image: NDArray[np.uint8] = bright.permute(1, 2, 0).cpu().numpy()
        return image

    def encode(self, request: ImageRequest) -> torch.Tensor:
        """Return the latents (4, h, w) of the uploaded image of an edit, the most likely ones of the VAE.

        Beyond the image, up to a multiple of eight pixels, its outermost pixels repeat. Raises EngineError if there is
        no memory for it, and FloatingPointError if the result is not finite.
        """
        import numpy as np
        import torch

        pixels = np.asarray(original(request), np.float32) / 127.5 - 1
        below, right = -pixels.shape[0] % _PIXELS_PER_LATENT, -pixels.shape[1] % _PIXELS_PER_LATENT
        padded = np.pad(pixels, ((0, below), (0, right), (0, 0)), mode="edge")
        x = torch.from_numpy(padded).permute(2, 0, 1)[None].to(self.device)
        vae: Any = self.networks.vae
        dtype = vae.dtype
        try:
            latents = self._encode_once(x)
            if not bool(latents.isfinite().all()) and dtype != torch.float32:
                vae.to(dtype=torch.float32)
                latents = self._encode_once(x)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise EngineError(f"out of memory for one image of {request.width} by {request.height}") from None
        finally:
            vae.to(dtype=dtype)
        if not bool(latents.isfinite().all()):
            raise FloatingPointError("the latents of the image are not finite")
        return latents

    def _encode_once(self, pixels: torch.Tensor) -> torch.Tensor:
        import torch

        vae: Any = self.networks.vae
        vae.use_tiling = False
        with torch.inference_mode():
            found = vae.encode(pixels.to(vae.dtype)).latent_dist.mode()[0].float()
        latents: torch.Tensor = (found - self.networks.shift) * vae.config.scaling_factor
        return latents

    def _decoded(self, latents: torch.Tensor) -> torch.Tensor | None:
        """Decode the whole image, or in tiles if that takes too much memory. Return None if tiles do too."""
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
            scaled = (latents / vae.config.scaling_factor + self.networks.shift)[None].to(vae.dtype)
            decoded: torch.Tensor = vae.decode(scaled, return_dict=False)[0][0].float()
        return decoded

    def _empty_cache(self) -> None:
        import torch

        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def are_finite(outputs: Sequence[torch.Tensor | None]) -> list[bool]:
    """Return for each output whether all its values are finite, True for one that is missing. Waits for the device."""
    import torch

    computed = [output for output in outputs if output is not None]
    if not computed:
        return [True] * len(outputs)
    finite = iter(torch.stack([output.isfinite().all() for output in computed]).tolist())
    return [output is None or next(finite) for output in outputs]


def latent_mask(request: ImageRequest, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return a mask of latents (1, h, w): 1 where they may change."""
    import numpy as np
    from PIL import Image

    mask = mask_of(request)
    assert mask is not None
    height, width = shape
    page = Image.new("L", (width * _PIXELS_PER_LATENT, height * _PIXELS_PER_LATENT))
    page.paste(mask)
    # Every latent with a pixel to redraw may change: pixels outside are restored at the end.
    blocks = (np.asarray(page) > 0).reshape(height, _PIXELS_PER_LATENT, width, _PIXELS_PER_LATENT)
    free: NDArray[np.float32] = np.asarray(blocks.any(axis=(1, 3)), np.float32)[None]
    return free


def timestep_of(sigma: float, *, zero_snr: bool = False) -> float:
    """Return the training timestep of a noise level, interpolated linearly in ln sigma."""
    table = noise_table(zero_snr=zero_snr)
    above = min(max(bisect.bisect_left(table, sigma), 1), TIMESTEPS - 1)
    low, high = math.log(table[above - 1]), math.log(table[above])
    share = (math.log(sigma) - low) / (high - low)
    return above - 1 + min(max(share, 0.0), 1.0)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return True for torch's out-of-memory error, or a library error that mentions it in its message."""
    import torch

    message = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in message or "can't allocate memory" in message


def _padded(words: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Pad to (N, L, width), with L of the longest, and return the mask (N, L), or None if all have equal length."""
    import torch

    longest = max(len(one) for one in words)
    if all(len(one) == longest for one in words):
        return torch.stack(list(words)), None
    padded = torch.stack([torch.nn.functional.pad(one, (0, 0, 0, longest - len(one))) for one in words])
    mask = [[1.0] * len(one) + [0.0] * (longest - len(one)) for one in words]
    return padded, torch.tensor(mask, device=padded.device)
