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
    """Return a folder with `sd3` and `flux`, a Stable Diffusion 3 and a Flux a thousand times smaller."""
    packages_of_the_gpu_engine()
    folder = tmp_path_factory.mktemp("flow")
    _save_sd3(folder)
    _save_flux(folder)
    return folder


def _save_sd3(folder: Path) -> None:
    import torch
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer

    from tests.support.diffusion import TINY_TOKENS, clip, save_vocabulary

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


def _save_flux(folder: Path) -> None:
    import torch
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast

    from tests.support.diffusion import TINY_TOKENS, clip

    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, guidance_embeds=True, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    transformer.proj_out.weight.data.mul_(8)
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[32, 32, 64, 64], latent_channels=16, shift_factor=0.1159, scaling_factor=0.3611,
        use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(f"\u2581{word}", -1.0) for word in ("a", "red", "apple", "worm")]
    pieces += [("\u2581", -2.0), *((chr(letter), -5.0) for letter in range(ord("a"), ord("z") + 1))]
    t5 = T5Config(vocab_size=64, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2)
    FluxPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=vae,
        text_encoder=CLIPTextModel(clip(32, TINY_TOKENS, "quick_gelu")),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "words", model_max_length=77),
        text_encoder_2=T5EncoderModel(t5),
        tokenizer_2=T5TokenizerFast(vocab=pieces, extra_ids=0),
    ).save_pretrained(folder / "flux")


def engine_of(folder: Path, name: str = "sd3", **loras: str) -> Any:
    from minitoolai.engines.diffusers.engine import make_batch_engine

    models = {"m": {"weights": name, "loras": loras}}
    engine = make_batch_engine({"models": models, "folder": str(folder), "device": "cpu"})
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

    name = "flux" if kind.startswith("Flux") else "sd3"
    without_t5 = {} if name == "flux" else {"text_encoder_3": None, "tokenizer_3": None}
    pipeline = getattr(diffusers, kind).from_pretrained(folder / name, local_files_only=True, **without_t5)
    pipeline.set_progress_bar_config(disable=True)
    seed = torch.Generator("cpu").manual_seed(7)
    image = pipeline("a red apple", guidance_scale=2.5, width=96, height=64, generator=seed, **fields).images[0]
    return pixels(image), pipeline.scheduler.sigmas.tolist()


@pytest.mark.parametrize(("name", "kind"), [("sd3", "StableDiffusion3Pipeline"), ("flux", "FluxPipeline")])
def test_an_image_equals_that_of_diffusers_and_names_its_schedule(folder: Path, name: str, kind: str) -> None:
    engine = engine_of(folder, name)
    image = draw(engine)
    expected, levels = theirs(folder, kind, num_inference_steps=4)
    assert np.abs(pixels(image) - expected).max() <= 1
    assert pixels(image).std() > 5
    assert levels[0] == 1.0
    own = engine.denoiser(name)._pipelines[kind].scheduler.sigmas.tolist()
    assert own == levels
    assert "Sampler: FlowMatchEulerDiscrete" in image.text["parameters"]
    assert f"Model: {name}" in image.text["parameters"]


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_guidance_counts_and_a_negative_prompt_only_where_the_model_has_one(folder: Path, name: str) -> None:
    engine = engine_of(folder, name)
    plain, stronger, worm = draw(engine), draw(engine, cfg_scale=5.0), draw(engine, negative_prompt="worm")
    assert np.abs(pixels(plain) - pixels(stronger)).max() > 1
    # Flux learned its guidance and takes no negative prompt, so its metadata names none.
    assert (np.abs(pixels(plain) - pixels(worm)).max() > 1) == (name == "sd3")
    assert ("Negative prompt: worm" in worm.text["parameters"]) == (name == "sd3")


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_a_lora_counts_as_much_as_merged_weights_and_for_its_image_alone(
    folder: Path, tmp_path: Path, name: str
) -> None:
    import shutil

    import torch
    from safetensors.torch import load_file, save_file

    path = tmp_path / name
    shutil.copytree(folder / name, path)
    weights = path / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors, lora = load_file(weights), {}
    torch.manual_seed(1)
    for module in ("transformer_blocks.0.attn.to_q", "transformer_blocks.0.ff.net.2", "x_embedder", "proj_out"):
        full = f"{'pos_embed.proj' if module == 'x_embedder' and name == 'sd3' else module}"
        shape = tensors[f"{full}.weight"].shape
        down, up = torch.randn(4, *shape[1:]) * 0.3, torch.randn(shape[0], 4, *[1] * (len(shape) - 2)) * 0.3
        lora |= {f"transformer.{full}.lora_A.weight": down, f"transformer.{full}.lora_B.weight": up}
        tensors[f"{full}.weight"] += 0.8 * (up.flatten(1) @ down.flatten(1)).reshape(shape)
    save_file(lora, tmp_path / "pencil.safetensors")
    shutil.copytree(folder / name, tmp_path / "plain")
    save_file(tensors, weights, {"format": "pt"})
    engine = engine_of(tmp_path, "plain", pencil=str(tmp_path / "pencil.safetensors"))
    before = draw(engine)
    ours = draw(engine, prompt="a red apple<lora:pencil:0.8>")
    assert np.abs(pixels(ours) - pixels(draw(engine_of(tmp_path, name)))).max() <= 1
    assert np.abs(pixels(ours) - pixels(before)).max() > 20
    assert np.abs(pixels(draw(engine)) - pixels(before)).max() == 0


@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize(
    ("name", "kind"), [("sd3", "StableDiffusion3Img2ImgPipeline"), ("flux", "FluxImg2ImgPipeline")]
)
def test_an_edit_equals_that_of_diffusers(folder: Path, name: str, kind: str, strength: float) -> None:
    image = draw(engine_of(folder, name), task="edit", images=(encoded(SOURCE),), strength=strength)
    steps = round(4 / strength)
    expected, _ = theirs(folder, kind, image=SOURCE, strength=strength, num_inference_steps=steps)
    assert np.abs(pixels(image) - expected).max() <= 1


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_only_the_mask_changes(folder: Path, name: str) -> None:
    mask = Image.new("L", SOURCE.size)
    mask.paste(255, (24, 16, 72, 56))
    image = draw(engine_of(folder, name), task="edit", images=(encoded(SOURCE),), mask=encoded(mask), strength=0.8)
    changed = (pixels(image) != pixels(SOURCE)).any(axis=2)
    assert changed.any()
    assert not changed[np.asarray(mask) == 0].any()


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_odd_sizes_and_progress(folder: Path, name: str) -> None:
    batch = engine_of(folder, name).open("m")
    seen: list[tuple[int, int]] = []
    first = batch.add(ImageRequest(prompt="a", width=75, height=61, steps=3), lambda *step: seen.append(step))
    removed = batch.add(ImageRequest(prompt="b", width=64, height=64, steps=3))
    batch.remove(removed)
    (image,) = batch.step()
    assert image.slot_id == first
    assert Image.open(io.BytesIO(image.png)).size == (75, 61)
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert len(batch) == 0


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_weights_that_are_not_a_number_fail_their_image_alone(folder: Path, tmp_path: Path, name: str) -> None:
    import shutil

    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder / name, tmp_path / name)
    weights = tmp_path / name / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors["proj_out.bias"] = torch.full_like(tensors["proj_out.bias"], float("nan"))
    save_file(tensors, weights)
    with pytest.raises(EngineError, match="not finite"):
        draw(engine_of(tmp_path, name))


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_an_incomplete_folder_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    import shutil

    shutil.copytree(folder / name, tmp_path / name)
    shutil.rmtree(tmp_path / name / "vae")
    with pytest.raises(EngineError, match=f"{name} cannot be loaded"):
        draw(engine_of(tmp_path, name))
