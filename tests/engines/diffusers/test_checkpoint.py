"""Tests of loading weights: a single file in the published layout, or a diffusers folder. Anything else is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from minitoolai.core.errors import EngineError
from minitoolai.engines.diffusers.checkpoint import WeightsFolder
from tests.engines.diffusers.conftest import Checkpoints
from tests.support.programs import packages_of_the_gpu_engine

#: torch alone takes longer to import than most tests to run.
pytestmark = pytest.mark.acceptance


def load(path: Path) -> Any:
    import torch

    from minitoolai.engines.diffusers.checkpoint import load_networks

    return load_networks(path, device=torch.device("cpu"), dtype=torch.float32, vae_dtype=torch.float32)


def same(one: Any, other: Any, within: float = 0.0) -> bool:
    """Return True if all tensors of the loaded network equal the original's."""
    there = other.state_dict()
    return all((tensor - there[name]).abs().max() <= within for name, tensor in one.state_dict().items())


@pytest.mark.parametrize("name", ["one.safetensors", "xl.safetensors"])
def test_a_file_in_the_published_layout_is_loaded_completely(checkpoints: Checkpoints, name: str) -> None:
    original = checkpoints.xl if name.startswith("xl") else checkpoints.one
    networks = load(checkpoints.folder / name)
    # xl.safetensors is written in half precision, as most are.
    within = 1e-2 if original.is_xl else 0.0
    assert networks.is_xl == original.is_xl
    assert same(networks.unet, original.unet, within)
    assert same(networks.vae, original.vae, within)
    encoders = [original.text_encoder, *([original.text_encoder_2] if original.is_xl else [])]
    for loaded, whole in zip(networks.encoders, encoders, strict=True):
        assert same(loaded.network, whole, within)


def test_a_folder_is_loaded_from_full_or_half_precision_files(checkpoints: Checkpoints) -> None:
    for name, original in (("xl-folder", checkpoints.xl_folder), ("one-folder", checkpoints.one_folder)):
        networks = load(checkpoints.folder / name)
        assert (networks.name, networks.is_xl, networks.predicts_v) == (name, original.is_xl, False)
        assert same(networks.unet, original.unet)
        assert same(networks.vae, original.vae)
        assert same(networks.encoders[-1].network, original.text_encoder_2 or original.text_encoder)


def test_the_real_networks_have_as_many_tensors_as_their_published_files() -> None:
    """Check the tensor names: the UNet of sd_xl_base_1.0 has 1,680 tensors, that of v1-5 686, and the VAE 248."""
    packages_of_the_gpu_engine()
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel

    from minitoolai.engines.diffusers import checkpoint
    from tests.support import diffusion

    xl = {
        "block_out_channels": [320, 640, 1280],
        "attention_head_dim": [5, 10, 20],
        "transformer_layers_per_block": [1, 2, 10],
        "cross_attention_dim": 2048,
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    }
    one = {"block_out_channels": [320, 640, 1280, 1280], "cross_attention_dim": 768}
    for is_xl, changes, count in ((True, xl, 1680), (False, one, 686)):
        wanted = diffusion.unet_config(is_xl=is_xl) | changes
        vae_wanted = diffusion.vae_config(is_xl=is_xl) | {"block_out_channels": [128, 256, 512, 512]}
        with torch.device("meta"):
            unet = UNet2DConditionModel.from_config(wanted)
            vae = AutoencoderKL.from_config(vae_wanted)
        tensors = {f"{checkpoint.UNET}{name}": tensor for name, tensor in diffusion.unet_names(unet).items()}
        of_vae = diffusion.vae_names(vae)
        assert (len(tensors), len(of_vae)) == (count, 248)
        tensors |= {f"{checkpoint.VAE}{name}": tensor for name, tensor in of_vae.items()}
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if is_xl:
            shapes |= {f"{checkpoint.OPEN_CLIP_OF_XL}text_projection": (1280, 1280), f"{checkpoint.CLIP_OF_XL}x": (1,)}
        else:
            shapes |= {f"{checkpoint.CLIP_OF_15}x": (1,)}
        found, found_vae = checkpoint.unet_config(shapes), checkpoint.vae_config(shapes)
        assert {key: found[key] for key in wanted if key != "sample_size" and key in found} == {
            key: value for key, value in wanted.items() if key != "sample_size" and key in found
        }
        assert found_vae["block_out_channels"] == [128, 256, 512, 512]
        assert found_vae["scaling_factor"] == (0.13025 if is_xl else 0.18215)


def test_v_prediction_is_recognized_in_files_and_folders(checkpoints: Checkpoints, tmp_path: Path) -> None:
    import torch

    assert load(checkpoints.one.save_file(tmp_path / "v.safetensors", v_pred=torch.zeros(0))).predicts_v
    folder = shutil.copytree(checkpoints.folder / "one-folder", tmp_path / "v-folder")
    scheduler = folder / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps(json.loads(scheduler.read_text()) | {"prediction_type": "v_prediction"}))
    assert load(folder).predicts_v


def test_weights_of_another_model_are_refused_with_a_reason(checkpoints: Checkpoints, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    def refused(tensors: dict[str, Any], words: str) -> None:
        save_file(tensors, tmp_path / "x.safetensors")
        with pytest.raises(EngineError, match=words):
            load(tmp_path / "x.safetensors")

    whole = {name: tensor.clone() for name, tensor in checkpoints.one.published().items()}
    refused({"lora_unet_down.weight": torch.zeros(1)}, "contains no Stable Diffusion UNet")
    refused(whole | {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(32, 9, 3, 3)}, "inpainting")
    refused({n: t for n, t in whole.items() if not n.startswith("cond_stage")}, "contains no text encoder")
    refused({n: t for n, t in whole.items() if not n.startswith("first_stage")}, "contains no VAE")
    refused({n: t for n, t in whole.items() if "time_embed.0.bias" not in n}, "its UNet is not one of SD 1.5 or SDXL")
    (tmp_path / "y.safetensors").write_bytes((checkpoints.folder / "one.safetensors").read_bytes()[:5000])
    with pytest.raises(EngineError, match=r"y\.safetensors cannot be loaded"):
        load(tmp_path / "y.safetensors")
    (tmp_path / "z.safetensors").write_bytes(b"")
    with pytest.raises(EngineError, match=r"z\.safetensors cannot be loaded"):
        load(tmp_path / "z.safetensors")


def test_an_incomplete_folder_is_refused_with_a_reason(checkpoints: Checkpoints, tmp_path: Path) -> None:
    for part, words in (
        ("unet/diffusion_pytorch_model.fp16.safetensors", "unet contains no .safetensors"),
        ("tokenizer/vocab.json", "no readable tokenizer"),
        ("vae/config.json", "cannot be loaded"),
    ):
        folder = shutil.copytree(checkpoints.folder / "one-folder", tmp_path / part.replace("/", "-"))
        (folder / part).unlink()
        with pytest.raises(EngineError, match=words):
            load(folder)


def test_weights_are_a_file_or_a_folder_of_the_same_name(tmp_path: Path) -> None:
    weights = WeightsFolder(tmp_path)
    assert "no file" in str(weights.why_missing("a.safetensors"))
    (tmp_path / "a.ckpt").write_bytes(b"")
    assert weights.find("a.ckpt") is None
    (tmp_path / "a").mkdir()
    assert "no model_index.json" in str(weights.why_missing("a.safetensors"))
    (tmp_path / "a" / "model_index.json").write_text("{}")
    assert weights.find("a.safetensors") == weights.find("a") == tmp_path / "a"
    (tmp_path / "a.safetensors").write_bytes(b"")
    assert weights.find("a.safetensors") == tmp_path / "a.safetensors"
    assert WeightsFolder(tmp_path / "elsewhere").find(str(tmp_path / "a.safetensors")) == tmp_path / "a.safetensors"


def test_the_tokenizer_agrees_with_transformers(tmp_path: Path) -> None:
    packages_of_the_gpu_engine()
    from transformers import CLIPTokenizer

    from minitoolai.engines.diffusers.prompts import clip_tokenizer, tokenizer_of_folder

    ours = clip_tokenizer()
    assert (ours.start, ours.end, ours.comma) == (49406, 49407, 267)
    assert ours.encode("a photo of a cat") == [320, 1125, 539, 320, 2368]
    model = json.loads(ours._tokenizer.to_str())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in model["merges"]))
    ours._tokenizer.save(str(tmp_path / "tokenizer.json"))
    theirs = CLIPTokenizer.from_pretrained(tmp_path)
    folder = tokenizer_of_folder(tmp_path)
    (tmp_path / "vocab.json").unlink()
    again = tokenizer_of_folder(tmp_path)
    for text in (
        "A red apple, on  the Tisch! it's 2024",
        "日本 🎉 café naïve",
        "Ünïcödé İstanbul ß ǅ",
        "masterpiece_best, 1girl\n\ttab\u00a0x",
        "",
    ):
        assert ours.encode(text) == folder.encode(text) == again.encode(text) == theirs(text)["input_ids"][1:-1], text
