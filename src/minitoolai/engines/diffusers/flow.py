"""Flow-matching models (Stable Diffusion 3, Flux) by diffusers' own pipelines and schedule, one image after the other.

Their noise levels are no sigmas of Stable Diffusion, so the eighteen samplers do not apply: the metadata of each image
names diffusers' schedule instead. Folders only, in diffusers' layout and as safetensors.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec.structs import replace

from minitoolai.core.errors import EngineError
from minitoolai.engines.diffusers.lora import LoraLibrary, UsedLoras, applied
from minitoolai.engines.diffusers.lora_files import IMAGE, TEXT, TEXT_2
from minitoolai.engines.images.codec import EDITS, cover, encode_result, parameters_text
from minitoolai.engines.images.editing.pixels import mask_of, original
from minitoolai.engines.protocols import FailedImage, GeneratedImage, ImageRequest, OnProgress

if TYPE_CHECKING:
    import torch
    from PIL import Image

#: What the metadata names as the sampler.
SAMPLER = "FlowMatchEulerDiscrete"
#: Class of the pipeline → its variants that change an image, and that redraw a mask.
PIPELINES = {
    "StableDiffusion3Pipeline": ("StableDiffusion3Img2ImgPipeline", "StableDiffusion3InpaintPipeline"),
    "FluxPipeline": ("FluxImg2ImgPipeline", "FluxInpaintPipeline"),
}
#: Sides must be multiples of this: eight pixels a latent, two latents a patch.
_MULTIPLE = 16


def is_flow(path: Path) -> bool:
    """Return True if a folder holds one of these models."""
    index = path / "model_index.json"
    return index.is_file() and json.loads(index.read_text("utf-8")).get("_class_name") in PIPELINES


class FlowModel:
    """The networks of one folder, in the pipelines that generate and edit."""

    def __init__(self, path: Path, device: torch.device, dtype: torch.dtype) -> None:
        """Load the folder. Raises EngineError if it is incomplete."""
        import diffusers
        from diffusers.utils.logging import disable_progress_bar
        from transformers.utils.logging import disable_progress_bar as disable_progress_bar_of_transformers

        self.name = path.name
        index = json.loads((path / "model_index.json").read_text("utf-8"))
        self._kind = index["_class_name"]
        #: Facts of a request that have no effect: Flux learned its guidance, and takes no negative prompt.
        self.omitted = frozenset({"Negative prompt"} if self._kind == "FluxPipeline" else ())
        # The third text encoder of Stable Diffusion 3 is often left out, because it is larger than the model.
        absent = {name: None for name, part in index.items() if part == [None, None]}
        disable_progress_bar()
        disable_progress_bar_of_transformers()
        try:
            loaded = getattr(diffusers, self._kind).from_pretrained(
                path, dtype=dtype, local_files_only=True, use_safetensors=True, **absent
            )
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise EngineError(f"{path.name} cannot be loaded: {type(error).__name__}: {error}"[:500]) from error
        loaded.set_progress_bar_config(disable=True)
        self._device = device
        self._pipelines = {self._kind: loaded.to(device)}
        parts = {IMAGE: loaded.transformer, TEXT: loaded.text_encoder, TEXT_2: loaded.text_encoder_2}
        self.loras = LoraLibrary({name: part for name, part in parts.items() if part is not None}, device, path.name)
        #: For the engine, which unloads models by their size.
        self.networks = self

    def bytes(self) -> int:
        """Return the size of all parameters on the device."""
        parts = self._pipelines[self._kind].components.values()
        networks = [part for part in parts if hasattr(part, "parameters")]
        return sum(p.numel() * p.element_size() for network in networks for p in network.parameters())

    def _pipeline(self, kind: str) -> Any:
        import diffusers

        if kind not in self._pipelines:
            self._pipelines[kind] = getattr(diffusers, kind)(**self._pipelines[self._kind].components)
            self._pipelines[kind].set_progress_bar_config(disable=True)
        return self._pipelines[kind]

    def draw(
        self, request: ImageRequest, on_step: Callable[[int], None], prompt: str, loras: UsedLoras = ()
    ) -> Image.Image:
        """Return the image of a request; `prompt` is its prompt without tags.

        Raises FloatingPointError if the latents are not finite.
        """
        import torch

        def after_step(_: Any, step: int, __: Any, state: dict[str, Any]) -> dict[str, Any]:
            if not bool(state["latents"].isfinite().all()):
                raise FloatingPointError(f"the model gave values that are not finite (NaN) at step {step + 1}")
            on_step(step + 1)
            return state

        width, height = (-(-side // _MULTIPLE) * _MULTIPLE for side in (request.width, request.height))
        fields: dict[str, Any] = {
            "prompt": prompt,
            "num_inference_steps": request.steps,
            "guidance_scale": request.cfg_scale,
            "width": width,
            "height": height,
            "generator": torch.Generator("cpu").manual_seed(request.seed % 2**63),
            "callback_on_step_end": after_step,
            "callback_on_step_end_tensor_inputs": ["latents"],
        }
        if not self.omitted:
            fields["negative_prompt"] = request.negative_prompt or None
        kind = self._kind
        if request.task in EDITS:
            mask = mask_of(request)
            kind = PIPELINES[self._kind][0 if mask is None else 1]
            fields |= {"image": cover(original(request), width, height), "strength": request.strength}
            # All steps are taken below the level of the strength, as with the other models.
            fields["num_inference_steps"] = max(request.steps, round(request.steps / request.strength))
            if mask is not None:
                fields["mask_image"] = cover(mask, width, height)
        with torch.inference_mode(), ExitStack() as stack:
            stack.enter_context(applied(IMAGE, [loras], lambda weight: weight.image))
            for network in (TEXT, TEXT_2):
                stack.enter_context(applied(network, [loras], lambda weight: weight.text))
            image: Image.Image = self._pipeline(kind)(**fields).images[0]
        return image


class _Waiting(NamedTuple):
    """An image to be drawn, its prompt without tags, and its LoRAs."""

    request: ImageRequest
    on_progress: OnProgress | None
    prompt: str
    loras: UsedLoras


class FlowBatch:
    """Images waiting for one model. Each step draws one of them from start to end."""

    def __init__(self, load: Callable[[], FlowModel], *, loras: Callable[[str], Mapping[str, Path]]) -> None:
        """`loras` returns the LoRA files of a model of the catalog."""
        self._load, self._loras = load, loras
        #: None while nothing waits, so that the weights can be unloaded.
        self.denoiser: FlowModel | None = None
        self._waiting: OrderedDict[int, _Waiting] = OrderedDict()
        self._last_slot = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, request: ImageRequest, on_progress: OnProgress | None = None) -> int:
        """Add an image.

        Raises EngineRefused for a LoRA that cannot be used, and EngineError if the weights cannot be loaded.
        """
        if self.denoiser is None:
            self.denoiser = self._load()
        prompt, loras = self.denoiser.loras.used_by(request, self._loras(request.model))
        self._last_slot += 1
        self._waiting[self._last_slot] = _Waiting(request, on_progress, prompt, loras)
        return self._last_slot

    def remove(self, slot_id: int) -> None:
        self._waiting.pop(slot_id, None)
        self._release_if_empty()

    def step(self) -> list[GeneratedImage | FailedImage]:
        """Draw the image that waits longest."""
        if not self._waiting or self.denoiser is None:
            return []
        slot_id, (request, on_progress, prompt, loras) = next(iter(self._waiting.items()))

        def on_step(step: int) -> None:
            if on_progress is not None:
                on_progress(min(step, request.steps), request.steps)

        try:
            image = self.denoiser.draw(request, on_step, prompt, loras)
        except FloatingPointError as error:
            del self._waiting[slot_id]
            self._release_if_empty()
            return [FailedImage(slot_id=slot_id, error=str(error), refused=True)]
        name, omitted = self.denoiser.name, self.denoiser.omitted
        del self._waiting[slot_id]
        self._release_if_empty()
        text = parameters_text(replace(request, scheduler=SAMPLER), name, omitted=omitted)
        png = encode_result(cover(image, request.width, request.height), request, text)
        return [GeneratedImage(slot_id=slot_id, png=png, model=name)]

    def _release_if_empty(self) -> None:
        if not self._waiting:
            self.denoiser = None
