"""Tests of flow-matching models on tiny networks: the same levels and images as diffusers' pipeline."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from minitoolai.core.errors import EngineError
from minitoolai.engines.protocols import ImageRequest
from tests.support.pictures import encoded, picture
from tests.support.programs import packages_of_the_gpu_engine

#: torch alone takes longer to import than most tests to run.
pytestmark = [
    pytest.mark.acceptance,
    # The library compared with, not ours, hands numpy an array in a way that is going.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]
SOURCE = picture(96, 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with `sd3`, a Stable Diffusion 3 a thousand times smaller."""
    packages_of_the_gpu_engine()
    import torch
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer

    from tests.support.diffusion import TINY_TOKENS, clip, save_vocabulary

    folder = tmp_path_factory.mktemp("flow")
    save_vocabulary(folder / "words")
    tokenizer = CLIPTokenizer.from_pretrained(folder / "words", model_max_length=77)
    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=32, patch_size=2, in_channels=16, num_layers=2, attention_head_dim=8, num_attention_heads=4,
        joint_attention_dim=64, caption_projection_dim=32, pooled_projection_dim=96, out_channels=16,
    )  # fmt: skip
    transformer.proj_out.weight.data.mul_(8)
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[32, 32, 64, 64], latent_channels=16, shift_factor=0.0609, scaling_factor=1.5035,
    )  # fmt: skip
    pipeline = StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae,
        text_encoder=CLIPTextModelWithProjection(clip(32, TINY_TOKENS, "quick_gelu")),
        tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(clip(64, TINY_TOKENS, "gelu")),
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )
    pipeline.save_pretrained(folder / "sd3")
    return folder


def engine_of(folder: Path, name: str = "sd3") -> Any:
    from minitoolai.engines.diffusers.engine import make_batch_engine

    engine = make_batch_engine({"models": {"m": {"weights": name}}, "folder": str(folder), "device": "cpu"})
    engine.start()
    return engine


def draw(engine: Any, **fields: Any) -> Image.Image:
    from minitoolai.engines.diffusers.engine import generate

    own = {"prompt": "a red apple", "width": 96, "height": 64, "seed": 7, "steps": 4, "cfg_scale": 2.5}
    return Image.open(io.BytesIO(generate(engine, "m", ImageRequest(**own | fields)).png))


def pixels(image: Image.Image) -> Any:
    return np.asarray(image.convert("RGB")).astype(int)


def theirs(folder: Path, kind: str, **fields: Any) -> Any:
    """Return an image and the levels of diffusers' own pipeline."""
    import diffusers
    import torch

    without_t5 = {"text_encoder_3": None, "tokenizer_3": None}
    pipeline = getattr(diffusers, kind).from_pretrained(folder / "sd3", local_files_only=True, **without_t5)
    pipeline.set_progress_bar_config(disable=True)
    seed = torch.Generator("cpu").manual_seed(7)
    image = pipeline("a red apple", guidance_scale=2.5, width=96, height=64, generator=seed, **fields).images[0]
    return pixels(image), pipeline.scheduler.sigmas.tolist()


def test_an_image_equals_that_of_diffusers_and_names_its_schedule(folder: Path) -> None:
    engine = engine_of(folder)
    image = draw(engine)
    expected, levels = theirs(folder, "StableDiffusion3Pipeline", num_inference_steps=4)
    assert np.abs(pixels(image) - expected).max() <= 1
    assert pixels(image).std() > 5
    assert levels[0] == 1.0
    own = engine.denoiser("sd3")._pipelines["StableDiffusion3Pipeline"].scheduler.sigmas.tolist()
    assert own == levels
    assert "Sampler: FlowMatchEulerDiscrete" in image.text["parameters"]
    assert "Model: sd3" in image.text["parameters"]


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_an_edit_equals_that_of_diffusers(folder: Path, strength: float) -> None:
    image = draw(engine_of(folder), task="edit", images=(encoded(SOURCE),), strength=strength)
    steps = round(4 / strength)
    kind = "StableDiffusion3Img2ImgPipeline"
    expected, _ = theirs(folder, kind, image=SOURCE, strength=strength, num_inference_steps=steps)
    assert np.abs(pixels(image) - expected).max() <= 1


def test_only_the_mask_changes(folder: Path) -> None:
    mask = Image.new("L", SOURCE.size)
    mask.paste(255, (24, 16, 72, 56))
    image = draw(engine_of(folder), task="edit", images=(encoded(SOURCE),), mask=encoded(mask), strength=0.8)
    changed = (pixels(image) != pixels(SOURCE)).any(axis=2)
    assert changed.any()
    assert not changed[np.asarray(mask) == 0].any()


def test_odd_sizes_and_progress(folder: Path) -> None:
    batch = engine_of(folder).open("m")
    seen: list[tuple[int, int]] = []
    first = batch.add(ImageRequest(prompt="a", width=75, height=61, steps=3), lambda *step: seen.append(step))
    removed = batch.add(ImageRequest(prompt="b", width=64, height=64, steps=3))
    batch.remove(removed)
    (image,) = batch.step()
    assert image.slot_id == first
    assert Image.open(io.BytesIO(image.png)).size == (75, 61)
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert len(batch) == 0


def test_weights_that_are_not_a_number_fail_their_image_alone(folder: Path, tmp_path: Path) -> None:
    import shutil

    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder / "sd3", tmp_path / "sd3")
    weights = tmp_path / "sd3" / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors["proj_out.bias"] = torch.full_like(tensors["proj_out.bias"], float("nan"))
    save_file(tensors, weights)
    with pytest.raises(EngineError, match="not finite"):
        draw(engine_of(tmp_path))


def test_an_incomplete_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(folder / "sd3", tmp_path / "sd3")
    shutil.rmtree(tmp_path / "sd3" / "vae")
    with pytest.raises(EngineError, match="sd3 cannot be loaded"):
        draw(engine_of(tmp_path))
