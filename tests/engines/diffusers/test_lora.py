"""Tests of LoRAs on tiny networks: the same images as with weights merged by hand, for their rows alone."""

from __future__ import annotations

import json
import logging
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minitoolai.core.errors import EngineError, EngineRefused
from minitoolai.engines.protocols import FailedImage, ImageRequest
from tests.engines.diffusers.conftest import Checkpoints

#: torch alone takes longer to import than most tests to run.
pytestmark = pytest.mark.acceptance
KINDS = ("xl", "one")


def request(**fields: Any) -> ImageRequest:
    return ImageRequest(**{"prompt": "a red apple", "width": 64, "height": 64, "seed": 7, "steps": 3} | fields)


def engine_of(folder: Path, weights: str, **loras: str) -> Any:
    from minitoolai.engines.diffusers.engine import make_batch_engine

    models = {"m": {"weights": weights, "loras": loras}}
    engine = make_batch_engine({"models": models, "folder": str(folder), "device": "cpu"})
    engine.start()
    return engine


def draw(engine: Any, **fields: Any) -> Any:
    from minitoolai.engines.diffusers.engine import generate
    from tests.support.diffusion import pixels_of

    return pixels_of(generate(engine, "m", request(**fields)).png)


def apart(one: Any, other: Any) -> int:
    return int(np.abs(one - other).max())


def our_hooks(*networks: Any) -> list[Any]:
    """Return the hooks of LoRAs; a text encoder has others of its library."""
    hooks = [hook for network in networks for module in network.modules() for hook in module._forward_hooks.values()]
    return [hook for hook in hooks if hook.__module__.startswith("minitoolai")]


@pytest.fixture(scope="module")
def loras(checkpoints: Checkpoints) -> Any:
    """Return random LoRAs of the tiny SDXL and SD 1.5 folders, by kind and seed."""
    from tests.support.loras import RandomLora

    return {
        (kind, seed): RandomLora(getattr(checkpoints, f"{kind}_folder"), seed=seed) for kind in KINDS for seed in (0, 1)
    }


@pytest.fixture
def folder(checkpoints: Checkpoints, tmp_path: Path) -> Path:
    """Return a folder of weights with links to the checkpoints, to which a test adds LoRAs."""
    for path in checkpoints.folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    return tmp_path


# ── the right image ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("naming", ["kohya", "kohya-xl", "peft", "diffusers", "processors"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_image_equals_that_of_weights_merged_by_hand(folder: Path, loras: Any, kind: str, naming: Any) -> None:
    lora = loras[kind, 0]
    lora.save(folder / "pencil.safetensors", naming)
    lora.merged(0.8).save_folder(folder / "merged")
    fields = {"negative_prompt": "worm", "cfg_scale": 2.5, "scheduler": "Euler"}
    engine = engine_of(folder, f"{kind}-folder", pencil="pencil.safetensors")
    ours = draw(engine, prompt="a red <lora:pencil:0.8>apple", **fields)
    expected = draw(engine_of(folder, "merged"), **fields)
    plain = draw(engine, **fields)
    assert apart(ours, expected) <= 1
    assert apart(ours, plain) > 20


def test_both_halves_count_by_two_weights(folder: Path, loras: Any) -> None:
    lora = loras["xl", 0]
    lora.save(folder / "pencil.safetensors")
    lora.merged(0.25, -0.5).save_folder(folder / "merged")
    ours = draw(engine_of(folder, "xl-folder", pencil="pencil.safetensors"), prompt="a red apple<lora:pencil:.25:-.5>")
    assert apart(ours, draw(engine_of(folder, "merged"))) <= 1


def test_two_loras_add_up(folder: Path, loras: Any) -> None:
    from tests.support.loras import RandomLora

    first, second = loras["one", 0], loras["one", 1]
    first.save(folder / "a.safetensors")
    second.save(folder / "b.safetensors", "peft")
    both = RandomLora(first.merged(0.5))
    both.halves = second.halves
    both.merged(0.7).save_folder(folder / "merged")
    engine = engine_of(folder, "one-folder", a="a.safetensors", b="b.safetensors")
    ours = draw(engine, prompt="a red apple <lora:a:0.5> <lora:b:0.7>")
    assert apart(ours, draw(engine_of(folder, "merged"))) <= 1


def test_alpha_may_stand_in_the_header(folder: Path, loras: Any) -> None:
    from safetensors.torch import save_file

    lora = loras["one", 0]
    tensors = lora.tensors("peft")
    tensors = {name: t / lora.scale if "lora_B" in name else t for name, t in tensors.items()}
    settings = {f"{name}.{key}": value for name in ("unet", "text_encoder") for key, value in _PEFT.items()}
    save_file(tensors, folder / "p.safetensors", {"lora_adapter_metadata": json.dumps(settings), "format": "pt"})
    lora.merged(1.0).save_folder(folder / "merged")
    ours = draw(engine_of(folder, "one-folder", p="p.safetensors"), prompt="a red apple<lora:p>")
    assert apart(ours, draw(engine_of(folder, "merged"))) <= 1


_PEFT = {"r": 4, "lora_alpha": 2, "alpha_pattern": {}, "use_dora": False, "use_rslora": False}


def test_the_tag_is_no_text_and_its_weight_is_limited(folder: Path, loras: Any) -> None:
    loras["one", 0].save(folder / "pencil.safetensors")
    engine = engine_of(folder, "one-folder", Pencil="pencil.safetensors")
    plain = draw(engine)
    assert apart(draw(engine, prompt="a red apple<lora:pencil:0>"), plain) == 0
    limited = draw(engine, prompt="a red apple<lora:PENCIL:99999>")
    assert apart(limited, draw(engine, prompt="a red apple<lora:Pencil:3>")) == 0
    assert apart(limited, draw(engine, prompt="a red apple<lora:Pencil:2><lora:pencil:2>")) == 0
    assert apart(limited, plain) > 20


def test_the_metadata_names_the_lora(folder: Path, loras: Any) -> None:
    import io

    from PIL import Image

    from minitoolai.engines.diffusers.engine import generate

    loras["one", 0].save(folder / "pencil.safetensors")
    engine = engine_of(folder, "one-folder", pencil="pencil.safetensors")
    image = Image.open(io.BytesIO(generate(engine, "m", request(prompt="a <lora:pencil:0.8>")).png))
    assert image.text["parameters"].startswith("a <lora:pencil:0.8>\nSteps: 3")


# ── other images ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", KINDS)
def test_images_with_different_loras_share_calls_and_do_not_mix(folder: Path, loras: Any, kind: str) -> None:
    from tests.support.diffusion import Watched, pixels_of

    for seed, name in ((0, "a"), (1, "b")):
        loras[kind, seed].save(folder / f"{name}.safetensors")
    engine = engine_of(folder, f"{kind}-folder", a="a.safetensors", b="b.safetensors")
    prompts = [
        "a red apple",
        "a red apple<lora:a:0.8>",
        "a red apple<lora:b:0.8>",
        "a red apple<lora:a:-0.8>",
        "a red apple<lora:b:0.4><lora:a:0.4>",
        "a red apple",
    ]
    alone = [draw(engine, prompt=prompt, cfg_scale=2.5, seed=i) for i, prompt in enumerate(prompts)]
    batch = engine.open("m")
    unet = engine.denoiser(f"{kind}-folder").networks.unet
    before = {name: tensor.clone() for name, tensor in unet.named_parameters()}
    slots = [batch.add(request(prompt=prompt, cfg_scale=2.5, seed=i)) for i, prompt in enumerate(prompts)]
    networks = batch.denoiser.networks
    networks.unet = Watched(unet)
    together: dict[int, Any] = {}
    while len(batch):
        together |= {image.slot_id: pixels_of(image.png) for image in batch.step()}
    assert set(networks.unet.calls) == {12}
    networks.unet = unet
    for slot_id, picture in zip(slots, alone, strict=True):
        assert apart(together[slot_id], picture) <= 1
    assert apart(alone[1], alone[3]) > 20
    # Neither weights nor hooks remain.
    assert all(bool((tensor == before[name]).all()) for name, tensor in unet.named_parameters())
    assert not our_hooks(unet, *(encoder.network for encoder in networks.encoders))


def test_a_lora_of_numbers_that_are_none_fails_its_image_alone(folder: Path, loras: Any) -> None:
    from safetensors.torch import save_file

    from tests.support.diffusion import pixels_of

    tensors = loras["one", 0].tensors("kohya")
    name = next(name for name in tensors if name.startswith("lora_unet") and name.endswith("up.weight"))
    tensors[name] = tensors[name] * float("nan")
    save_file(tensors, folder / "n.safetensors")
    engine = engine_of(folder, "one-folder", n="n.safetensors")
    plain = draw(engine)
    batch = engine.open("m")
    good, bad = batch.add(request()), batch.add(request(prompt="a red apple<lora:n:1>"))
    ended: dict[int, Any] = {}
    while len(batch):
        ended |= {image.slot_id: image for image in batch.step()}
    assert isinstance(ended[bad], FailedImage)
    assert ended[bad].refused
    assert "not finite" in ended[bad].error
    assert apart(pixels_of(ended[good].png), plain) <= 1
    assert apart(draw(engine), plain) == 0


def test_a_failed_call_leaves_no_hook_behind(folder: Path, loras: Any) -> None:
    import torch

    loras["one", 0].save(folder / "a.safetensors")
    engine = engine_of(folder, "one-folder", a="a.safetensors")
    batch = engine.open("m")
    batch.add(request(prompt="<lora:a:1>", cfg_scale=1))
    unet = batch.denoiser.networks.unet

    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    hook = unet.conv_out.register_forward_hook(fail)
    (failed,) = batch.step()
    hook.remove()
    assert "out of memory" in failed.error
    assert not our_hooks(unet)


def test_a_replaced_file_is_read_again(folder: Path, loras: Any) -> None:
    path = loras["one", 0].save(folder / "a.safetensors")
    engine = engine_of(folder, "one-folder", a="a.safetensors")
    first = draw(engine, prompt="a red apple<lora:a:1>")
    path.unlink()
    loras["one", 1].save(path)
    second = draw(engine, prompt="a red apple<lora:a:1>")
    assert apart(first, second) > 20
    loras["one", 1].merged(1.0).save_folder(folder / "merged")
    assert apart(second, draw(engine_of(folder, "merged"))) <= 1


def test_the_least_recently_used_lora_is_unloaded(checkpoints: Checkpoints, folder: Path, loras: Any) -> None:
    import torch

    from minitoolai.engines.diffusers.lora import LoraLibrary

    for seed, name in ((0, "a"), (1, "b")):
        loras["one", seed].save(folder / f"{name}.safetensors")
    tiny = checkpoints.one_folder
    networks = {"image": tiny.unet, "text_encoder": tiny.text_encoder}
    library = LoraLibrary(networks, torch.device("cpu"), "one-folder", max_loaded=1)
    files = {name: folder / f"{name}.safetensors" for name in "ab"}
    library.used_by(request(prompt="<lora:a:1>"), files)
    of_one = library.bytes()
    library.used_by(request(prompt="<lora:b:1>"), files)
    assert library.bytes() == of_one > 0
    assert [path.name for path in library._loaded] == ["b.safetensors"]


# ── faulty files ────────────────────────────────────────────────────────────────────────────────────────────


def _without(part: str, tensors: dict[str, Any]) -> dict[str, Any]:
    name = next(name for name in tensors if name.endswith(part))
    return {other: tensor for other, tensor in tensors.items() if other != name}


def _with(name: str, tensors: dict[str, Any]) -> dict[str, Any]:
    import torch

    return tensors | {name: torch.zeros(4, 4)}


@pytest.mark.parametrize("case", ["no up", "no down", "alpha alone", "ranks", "LoHa", "DoRA", "unknown", "empty"])
def test_a_file_that_is_no_complete_lora_is_named_at_the_start(
    folder: Path, loras: Any, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    import torch
    from safetensors.torch import save_file

    tensors = loras["one", 0].tensors("kohya")
    first = next(name for name in tensors if name.endswith("lora_up.weight"))
    tensors, words = {
        "no up": lambda: (_without("lora_up.weight", tensors), r"half a LoRA: \S+lora_down\S+ has no counterpart \(up"),
        "no down": lambda: (_without("lora_down.weight", tensors), r"half a LoRA: .*\(down is missing\)"),
        "alpha alone": lambda: ({"lora_unet_x.alpha": torch.tensor(1.0)}, "half a LoRA: lora_unet_x.alpha"),
        "ranks": lambda: (tensors | {first: torch.zeros(64, 3)}, r"do not fit: down is \[4, .*, up is \[64, 3\]"),
        "LoHa": lambda: (_with("lora_unet_x.hada_w1_a", tensors), "is a LoHa"),
        "DoRA": lambda: (_with("lora_unet_x.dora_scale", tensors), "is a DoRA"),
        "unknown": lambda: (_with("model.diffusion_model.out.2.weight", tensors), "no part of a LoRA of a known kind"),
        "empty": lambda: ({}, "contains no tensors"),
    }[case]()
    save_file(tensors, folder / "faulty.safetensors")
    with caplog.at_level(logging.ERROR):
        engine = engine_of(folder, "one-folder", sketchy="faulty.safetensors")
    assert caplog.text.count("LoRA sketchy of m cannot be used: faulty.safetensors") == 1
    (fault,) = engine.lora_faults()
    assert re.search(words, fault), fault
    with pytest.raises(EngineRefused, match="the LoRA 'sketchy' cannot be used at the moment: its file is faulty"):
        draw(engine, prompt="<lora:sketchy:1>")
    assert draw(engine).std() > 10


def test_a_truncated_lengthened_or_missing_file_is_named(folder: Path, loras: Any) -> None:
    data = loras["one", 0].save(folder / "good.safetensors").read_bytes()
    (folder / "short.safetensors").write_bytes(data[:-1])
    (folder / "long.safetensors").write_bytes(data + b"\0")
    (folder / "head.safetensors").write_bytes(data[:200])
    (folder / "tiny.safetensors").write_bytes(data[:3])
    (folder / "huge.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    (folder / "list.safetensors").write_bytes(struct.pack("<Q", 2) + b"[]")
    names = ("good", "short", "long", "head", "tiny", "huge", "list", "gone")
    engine = engine_of(folder, "one-folder", **{name: f"{name}.safetensors" for name in names})
    faults = "\n".join(engine.lora_faults())
    assert faults.count("cut off") == 5, faults
    assert "list.safetensors is no readable LoRA" in faults
    assert f"no file {folder / 'gone.safetensors'}: put it there" in faults
    assert "good" not in faults
    for name in names[1:]:
        with pytest.raises(EngineRefused, match="faulty"):
            draw(engine, prompt=f"<lora:{name}:1>")


def test_a_lora_of_another_model_or_shape_is_refused_and_says_why(
    folder: Path, loras: Any, caplog: pytest.LogCaptureFixture
) -> None:
    from safetensors.torch import save_file

    loras["xl", 0].save(folder / "xl-lora.safetensors")
    tensors = loras["one", 0].tensors("kohya")
    name = next(name for name in tensors if name.endswith("attn1_to_q.lora_up.weight"))
    tensors[name] = tensors[name][:-1].clone()
    save_file(tensors, folder / "cut.safetensors")
    engine = engine_of(folder, "one-folder", other="xl-lora.safetensors", cut="cut.safetensors")
    assert engine.lora_faults() == []
    for lora, words in (("other", "made for another kind of model than one-folder"), ("cut", "has weights")):
        caplog.clear()
        with pytest.raises(EngineRefused, match=f"the LoRA '{lora}' cannot be used at the moment"):
            draw(engine, prompt=f"<lora:{lora}:1>")
        assert f"LoRA {lora} cannot be used with one-folder" in caplog.text
        assert words in caplog.text
    assert draw(engine).std() > 10


def test_an_unknown_name_lists_those_on_offer(folder: Path, loras: Any) -> None:
    loras["one", 0].save(folder / "a.safetensors")
    engine = engine_of(folder, "one-folder", pencil="a.safetensors", oil="a.safetensors")
    assert set(engine.lora_names("m")) == {"pencil", "oil"}
    with pytest.raises(EngineRefused, match="there is no LoRA 'watercolour'; on offer are oil, pencil"):
        draw(engine, prompt="<lora:watercolour:1>")
    with pytest.raises(EngineError, match="the nearest is pencil"):
        draw(engine, prompt="<lora:pencl:1>")


def test_models_that_share_weights_have_loras_of_their_own(folder: Path, loras: Any) -> None:
    from minitoolai.engines.diffusers.engine import make_batch_engine
    from tests.support.diffusion import pixels_of

    for seed, name in ((0, "a"), (1, "b")):
        loras["one", seed].save(folder / f"{name}.safetensors")
    models = {name: {"weights": "one-folder", "loras": {"style": f"{name}.safetensors"}} for name in ("a", "b")}
    engine = make_batch_engine({"models": models, "folder": str(folder), "device": "cpu"})
    assert engine.batch_key("a", 64, 64) == engine.batch_key("b", 64, 64)
    batch = engine.open("a")
    slots = {name: batch.add(request(model=name, prompt="a red apple<lora:style:1>")) for name in ("a", "b")}
    ended: dict[int, Any] = {}
    while len(batch):
        ended |= {image.slot_id: pixels_of(image.png) for image in batch.step()}
    for seed, name in ((0, "a"), (1, "b")):
        loras["one", seed].merged(1.0).save_folder(folder / f"merged-{name}")
        assert apart(ended[slots[name]], draw(engine_of(folder, f"merged-{name}"))) <= 1
