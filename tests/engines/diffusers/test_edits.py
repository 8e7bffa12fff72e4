"""Tests of edits and of zero terminal SNR on tiny networks: the same images as diffusers' pipelines."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from minitoolai.engines.protocols import ImageRequest
from minitoolai.engines.sampling import SCHEDULERS, sigmas
from tests.engines.diffusers.conftest import Checkpoints
from tests.support.pictures import encoded, picture

#: torch alone takes longer to import than most tests to run.
pytestmark = [
    pytest.mark.acceptance,
    # The library compared with, not ours, hands numpy an array in a way that is going.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]
Generate = Callable[..., Any]
SOURCE = picture(96, 64)
MASK = Image.new("L", (96, 64))
MASK.paste(255, (24, 16, 72, 56))


def apart(one: Any, other: Any) -> int:
    """The largest difference of two pictures, of 255."""
    return int(np.abs(one - other).max())


def pipeline_parts(checkpoints: Checkpoints, scheduler: Any) -> dict[str, Any]:
    from transformers import CLIPTokenizer

    folder = checkpoints.folder / "one-folder"
    return checkpoints.one_folder.networks() | {
        "scheduler": scheduler,
        "tokenizer": CLIPTokenizer.from_pretrained(folder / "tokenizer", model_max_length=77),
        "safety_checker": None,
        "feature_extractor": None,
    }


def scheduler_from(levels: list[float], **config: Any) -> Any:
    """Return diffusers' Euler scheduler on exactly these levels: each derives them from strength in its own way."""
    import torch
    from diffusers import EulerDiscreteScheduler

    from minitoolai.engines.diffusers.batch import timestep_of
    from tests.support.diffusion import NOISE

    zero_snr = bool(config.get("rescale_betas_zero_snr"))

    class Fixed(EulerDiscreteScheduler):
        def set_timesteps(self, *_: Any, **__: Any) -> None:
            self.sigmas = torch.tensor(levels)
            self.timesteps = torch.tensor([timestep_of(level, zero_snr=zero_snr) for level in levels[:-1]])
            self.num_inference_steps = len(self.timesteps)
            self._step_index = self._begin_index = None

    return Fixed(**NOISE, **config)


def start_noise(width: int = 12, height: int = 8) -> Any:
    import torch

    from minitoolai.engines.sampling.noise import LazySeededNoise

    return torch.from_numpy(LazySeededNoise(7, (4, height, width)).start())[None]


def source_latents(checkpoints: Checkpoints) -> Any:
    """Return the most likely latents of the source, by diffusers' own processor."""
    import torch
    from diffusers.image_processor import VaeImageProcessor

    vae = checkpoints.one_folder.vae
    with torch.inference_mode():
        found = vae.encode(VaeImageProcessor().preprocess(SOURCE)).latent_dist.mode()
    return found * vae.config.scaling_factor


def settings(strength: float, **fields: Any) -> dict[str, Any]:
    own = {"scheduler": "Euler", "steps": 4, "cfg_scale": 2.5, "width": 96, "height": 64, "task": "edit"}
    return own | {"strength": strength, "images": (encoded(SOURCE),)} | fields


def with_our_noise(pipeline_class: Any, latents: Any) -> Any:
    """Return a pipeline that begins with these latents and the noise of our seed, and differs in nothing else."""

    class Seeded(pipeline_class):  # type: ignore[misc]
        def prepare_latents(self, *args: Any, timestep: Any = None, **_: Any) -> Any:
            begin = args[1] if timestep is None else timestep
            noisy = self.scheduler.add_noise(latents, start_noise(), begin)
            return (noisy, start_noise(), latents) if timestep is not None else noisy

    return Seeded


@pytest.mark.parametrize("strength", [0.3, 0.6, 0.9])
def test_img2img_equals_that_of_the_diffusers_pipeline(
    checkpoints: Checkpoints, generate: Generate, strength: float
) -> None:
    from diffusers import StableDiffusionImg2ImgPipeline

    scheduler = scheduler_from(sigmas("Euler", 4, strength=strength))
    seeded = with_our_noise(StableDiffusionImg2ImgPipeline, source_latents(checkpoints))
    pipeline = seeded(**pipeline_parts(checkpoints, scheduler), requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        "a red apple", image=SOURCE, strength=1.0, num_inference_steps=4, guidance_scale=2.5, output_type="np"
    ).images[0]
    ours = generate("one-folder", **settings(strength))
    assert apart(ours, np.rint(theirs * 255).astype(int)) <= 1


def test_inpainting_equals_that_of_the_diffusers_pipeline(checkpoints: Checkpoints, generate: Generate) -> None:
    from diffusers import StableDiffusionInpaintPipeline

    # Below strength 1 it begins with the noised image, and leaves out the first of five steps.
    scheduler = scheduler_from([14.0, *sigmas("Euler", 4, strength=0.7)])
    seeded = with_our_noise(StableDiffusionInpaintPipeline, source_latents(checkpoints))
    pipeline = seeded(**pipeline_parts(checkpoints, scheduler), requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        "a red apple",
        image=SOURCE,
        mask_image=MASK,
        strength=0.999,
        num_inference_steps=5,
        guidance_scale=2.5,
        width=96,
        height=64,
        output_type="np",
    ).images[0]
    ours = generate("one-folder", **settings(0.7, mask=encoded(MASK)))
    inside = np.s_[20:52, 28:68]
    assert apart(ours[inside], np.rint(theirs * 255).astype(int)[inside]) <= 1


@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_pixels_outside_the_mask_are_unchanged(generate: Generate, strength: float) -> None:
    ours = generate("xl.safetensors", **settings(strength, mask=encoded(MASK)))
    outside = np.asarray(MASK) == 0
    assert apart(ours[outside], np.asarray(SOURCE).astype(int)[outside]) == 0
    assert apart(ours, np.asarray(SOURCE).astype(int)) > 10


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_edits_and_a_weaker_edit_changes_less(generate: Generate, scheduler: str) -> None:
    before = np.asarray(SOURCE).astype(int)
    weak, strong = (generate("one.safetensors", **settings(s, scheduler=scheduler)) for s in (0.1, 1.0))
    latents_alone = generate("one.safetensors", **settings(0.05, scheduler=scheduler, cfg_scale=1.0, steps=1))
    assert apart(weak, strong) > 5
    assert np.abs(weak - latents_alone).mean() < np.abs(strong - latents_alone).mean()
    assert before.shape == weak.shape


def test_an_edit_of_an_odd_size_keeps_its_size(generate: Generate) -> None:
    odd = picture(77, 61)
    edited = generate("one.safetensors", **settings(0.5, width=77, height=61, images=(encoded(odd),)))
    assert edited.shape == (61, 77, 3)


# ── zero terminal SNR ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("spacing", ["linspace", "trailing"])
def test_the_first_level_with_zero_terminal_snr_is_that_of_diffusers(spacing: str) -> None:
    from diffusers import EulerDiscreteScheduler

    from tests.support.diffusion import NOISE

    config = NOISE | {"timestep_spacing": spacing, "rescale_betas_zero_snr": True}
    theirs = EulerDiscreteScheduler(**config)
    theirs.set_timesteps(4)
    ours = sigmas("Euler", 4, trailing=spacing == "trailing", zero_snr=True)
    assert ours[0] == pytest.approx(float(theirs.sigmas[0]), rel=1e-4)
    assert 4090 < ours[0] < 4100
    if spacing == "linspace":
        # The levels between differ, as without zero SNR: ours are interpolated in ln sigma, as in k-diffusion.
        assert ours == pytest.approx(theirs.sigmas.tolist(), rel=0.05, abs=1e-6)


@pytest.mark.parametrize("as_folder", [True, False])
def test_an_image_with_zero_terminal_snr_and_v_equals_that_of_diffusers(
    checkpoints: Checkpoints, tmp_path: Path, as_folder: bool
) -> None:
    import torch
    from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline

    from minitoolai.engines.diffusers.engine import generate as generate_one
    from minitoolai.engines.diffusers.engine import make_batch_engine
    from tests.support.diffusion import NOISE, pixels_of

    config = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    if as_folder:
        folder = checkpoints.one_folder.save_folder(tmp_path / "zero")
        EulerDiscreteScheduler(**NOISE, **config).save_pretrained(folder / "scheduler")
        tiny = checkpoints.one_folder
    else:
        marks = {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}
        checkpoints.one.save_file(tmp_path / "zero.safetensors", **marks)
        tiny = checkpoints.one
    name = "zero" if as_folder else "zero.safetensors"
    engine = make_batch_engine({"models": {"m": {"weights": name}}, "folder": str(tmp_path), "device": "cpu"})
    engine.start()
    request = ImageRequest(prompt="", scheduler="Euler", steps=4, cfg_scale=1, width=96, height=64, seed=7)
    ours = pixels_of(generate_one(engine, "m", request).png)
    levels = sigmas("Euler", 4, zero_snr=True)
    assert levels[0] > 4090
    parts = pipeline_parts(checkpoints, scheduler_from(levels, **config)) | tiny.networks()
    if not as_folder:
        parts["tokenizer"] = None
    pipeline = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    words = engine.denoiser(name).prompts.encode("").words[None]
    theirs = pipeline(
        prompt_embeds=words,
        num_inference_steps=4,
        guidance_scale=1.0,
        width=96,
        height=64,
        latents=start_noise(),
        output_type="np",
    ).images[0]
    assert apart(ours, np.rint(theirs * 255).astype(int)) <= 1


def test_the_metadata_of_an_edit_names_its_strength(engine: Any) -> None:
    from minitoolai.engines.diffusers.engine import generate as generate_one

    fields = {"prompt": "a red apple", "seed": 7} | settings(0.3)
    image = Image.open(io.BytesIO(generate_one(engine, "one.safetensors", ImageRequest(**fields)).png))
    assert "Denoising strength: 0.3" in image.text["parameters"]
