"""Tests of the GPU engine on tiny networks: the same images as diffusers' pipelines, alone or in a batch."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from minitoolai.core.errors import EngineError
from minitoolai.engines.protocols import GeneratedImage, ImageRequest
from minitoolai.engines.sampling import SCHEDULERS
from tests.engines.diffusers.conftest import Checkpoints

#: torch alone takes longer to import than most tests to run.
pytestmark = pytest.mark.acceptance

Generate = Callable[..., Any]


def apart(one: Any, other: Any) -> int:
    """The largest difference of two pictures, of 255."""
    return int(np.abs(one - other).max())


def request(**fields: Any) -> ImageRequest:
    return ImageRequest(**{"prompt": "a red apple", "width": 64, "height": 64, "seed": 7, "steps": 3} | fields)


def finished(batch: Any) -> dict[int, Any]:
    """Everything that the batch ends with, by slot_id."""
    ended: dict[int, Any] = {}
    while len(batch):
        ended |= {image.slot_id: image for image in batch.step()}
    return ended


# ── the right picture ─────────────────────────────────────────────────────────────────────────────────────


# The library compared with, not ours, hands numpy an array in a way that is going.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("negative", ["", "worm"])
@pytest.mark.parametrize("kind", ["xl", "one"])
def test_an_image_equals_that_of_the_diffusers_pipeline(
    checkpoints: Checkpoints, generate: Generate, kind: str, negative: str
) -> None:
    import torch
    from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
    from transformers import CLIPTokenizer

    from minitoolai.engines.sampling.noise import LazySeededNoise
    from tests.support.diffusion import NOISE

    folder, tiny = checkpoints.folder / f"{kind}-folder", getattr(checkpoints, f"{kind}_folder")
    parts = tiny.networks() | {"scheduler": EulerDiscreteScheduler(**NOISE)}
    parts["tokenizer"] = CLIPTokenizer.from_pretrained(folder / "tokenizer", model_max_length=77)
    if kind == "xl":
        parts["tokenizer_2"] = CLIPTokenizer.from_pretrained(folder / "tokenizer_2", pad_token="!", model_max_length=77)
        pipeline = StableDiffusionXLPipeline(**parts, add_watermarker=False)
    else:
        parts |= {"safety_checker": None, "feature_extractor": None}
        pipeline = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        "a red apple",
        # Where nothing is unwanted, SDXL's pipeline takes zeros and SD 1.5's an empty text.
        negative_prompt=negative or None,
        num_inference_steps=4,
        guidance_scale=2.5,
        width=96,
        height=64,
        latents=torch.from_numpy(LazySeededNoise(7, (4, 8, 12)).start())[None],
        output_type="np",
    ).images[0]
    ours = generate(f"{kind}-folder", negative_prompt=negative, scheduler="Euler", steps=4, cfg_scale=2.5, width=96)
    assert ours.std() > 10
    assert apart(ours, np.rint(theirs * 255).astype(int)) <= 1


def test_a_file_gives_the_same_image_as_its_folder(checkpoints: Checkpoints, tmp_path: Any) -> None:
    from minitoolai.engines.diffusers.engine import generate as generate_one
    from minitoolai.engines.diffusers.engine import make_batch_engine
    from minitoolai.engines.diffusers.prompts import clip_tokenizer
    from tests.support.diffusion import pixels_of

    folder = checkpoints.one.save_folder(tmp_path / "same")
    for file in (folder / "tokenizer").iterdir():
        file.unlink()
    clip_tokenizer()._tokenizer.save(str(folder / "tokenizer" / "tokenizer.json"))
    checkpoints.one.save_file(tmp_path / "file.safetensors")
    models = {"folder": {"weights": "same"}, "file": {"weights": "file.safetensors"}}
    engine = make_batch_engine({"models": models, "folder": str(tmp_path), "device": "cpu"})
    pictures = [pixels_of(generate_one(engine, name, request(prompt="a (red:1.4) 苹果")).png) for name in models]
    assert apart(*pictures) == 0


@pytest.mark.parametrize("predicts_v", [False, True], ids=["noise", "v"])
def test_the_output_is_interpreted_as_noise_or_v(engine: Any, predicts_v: bool) -> None:
    import torch

    from minitoolai.engines.diffusers.batch import Denoiser, Row

    denoiser = engine.denoiser("one.safetensors")
    truth, noise = torch.full((4, 8, 8), 0.3), torch.linspace(-1, 1, 4 * 8 * 8).reshape(4, 8, 8)
    sigma = 2.9

    class Sure:
        """Knows the picture. In the terms of training: x_t = a x0 + s noise, v = a noise - s x0 (2202.00512)."""

        dtype = torch.float32

        def __call__(self, x: Any, t: Any, **_: Any) -> Any:
            a, s = 1 / (sigma**2 + 1) ** 0.5, sigma / (sigma**2 + 1) ** 0.5
            assert torch.allclose(x[0], a * truth + s * noise, atol=1e-5)
            return ((a * noise - s * truth if predicts_v else noise)[None],)

    networks = type(denoiser.networks)("sure", Sure(), None, [], is_xl=False, predicts_v=predicts_v)
    sure = Denoiser(networks, torch.device("cpu"), rows_per_call=4, free_memory=lambda: False)
    told = denoiser.prompts.encode("x")
    (answer,) = sure.denoise([Row(truth + sigma * noise, sigma, told)])
    assert answer is not None
    assert torch.allclose(answer, truth, atol=1e-4)


# ── together as alone ─────────────────────────────────────────────────────────────────────────────────────

LONG = "a red apple, " * 40
MIXED = [
    request(),
    request(scheduler="DPM++ 2M SDE Karras", steps=5, seed=1),
    request(scheduler="Heun", steps=2, cfg_scale=1.0, prompt="(worm:1.3) [apple]", seed=2),
    request(scheduler="DPM fast", steps=4, prompt=LONG, negative_prompt="worm", seed=3),
    request(scheduler="DPM++ SDE", steps=3, prompt="a BREAK b BREAK c", cfg_scale=7.0, seed=4),
]


@pytest.mark.parametrize("model", ["xl.safetensors", "one.safetensors"])
def test_images_of_a_batch_equal_those_generated_alone(engine: Any, model: str) -> None:
    from minitoolai.engines.diffusers.engine import generate as generate_one
    from tests.support.diffusion import pixels_of

    batch = engine.open(model)
    slot_ids = {batch.add(MIXED[0]): 0}
    batch.step()
    # The others join when the first is half drawn; one is taken away again.
    slot_ids |= {batch.add(asked): i for i, asked in enumerate(MIXED[1:], 1)}
    gone = batch.add(request(seed=99))
    batch.step()
    batch.remove(gone)
    ended = finished(batch)
    assert set(ended) == set(slot_ids)
    for slot_id, i in slot_ids.items():
        assert isinstance(ended[slot_id], GeneratedImage)
        assert apart(pixels_of(ended[slot_id].png), pixels_of(generate_one(engine, model, MIXED[i]).png)) <= 2, MIXED[i]


def test_all_eighteen_schedulers_work_and_differ(engine: Any) -> None:
    from tests.support.diffusion import pixels_of

    batch = engine.open("one.safetensors")
    slot_ids = {batch.add(request(scheduler=name, steps=4)): name for name in SCHEDULERS}
    pictures = {slot_ids[slot_id]: pixels_of(image.png) for slot_id, image in finished(batch).items()}
    assert set(pictures) == set(SCHEDULERS)
    different = [apart(pictures[a], pictures[b]) for a in SCHEDULERS for b in SCHEDULERS if a < b]
    assert min(different) > 2


def test_guidance_one_needs_one_row_and_no_negative_prompt(checkpoints: Checkpoints) -> None:
    from tests.support.diffusion import Watched

    engine = checkpoints.engine()
    denoiser = engine.denoiser("one.safetensors")
    denoiser.networks.unet = watched = Watched(denoiser.networks.unet)
    batch = engine.open("one.safetensors")
    batch.add(request(cfg_scale=1.0, scheduler="Euler"))
    batch.add(request(cfg_scale=1.5, scheduler="Euler"))
    finished(batch)
    assert watched.calls == [3, 3, 3]


def test_progress_is_reported_in_steps(engine: Any) -> None:
    told: list[tuple[int, int]] = []
    batch = engine.open("one.safetensors")
    batch.add(request(scheduler="DPM2", steps=3), lambda *step: told.append(step))
    finished(batch)
    assert told == [(0, 3), (1, 3), (1, 3), (2, 3), (3, 3)]


# ── prompts ───────────────────────────────────────────────────────────────────────────────────────────────


def test_weights_in_a_prompt_have_an_effect_except_one(generate: Generate) -> None:
    plain = generate("xl.safetensors", cfg_scale=4)
    assert apart(generate("xl.safetensors", cfg_scale=4, prompt="a (red:1.0) apple"), plain) == 0
    assert apart(generate("xl.safetensors", cfg_scale=4, prompt="a (red:1.6) apple"), plain) > 2
    assert apart(generate("xl.safetensors", cfg_scale=4, prompt="a [red] apple"), plain) > 0


def test_tokens_beyond_75_have_an_effect(generate: Generate) -> None:
    assert (
        apart(generate("one.safetensors", prompt=LONG + "worm"), generate("one.safetensors", prompt=LONG + "red")) > 0
    )


def test_an_empty_negative_prompt_is_zeros_for_sdxl_and_an_empty_text_for_sd_15(engine: Any) -> None:
    for model, is_zero in (("xl.safetensors", True), ("one.safetensors", False)):
        prompts = engine.denoiser(model).prompts
        nothing, empty = prompts.encode("  ", is_negative=True), prompts.encode("  ")
        assert bool((nothing.words == 0).all()) == is_zero
        assert not bool((empty.words == 0).all())
        assert nothing.words.shape == empty.words.shape == (77, 96 if is_zero else 32)
        assert (nothing.pooled is None) != is_zero


# ── size and what is said of it ───────────────────────────────────────────────────────────────────────────


def test_an_odd_size_is_cropped_from_the_next_multiple_of_eight(engine: Any) -> None:
    from minitoolai.engines.diffusers.engine import generate as generate_one

    image = generate_one(engine, "one.safetensors", request(width=70, height=91))
    opened = Image.open(io.BytesIO(image.png))
    assert opened.size == (70, 91)
    assert "Size: 70x91, Model: one, Version: minitoolai" in opened.text["parameters"]  # type: ignore[attr-defined]
    assert image.model == "one"
    assert engine.batch_key("one.safetensors", 70, 91) == engine.batch_key("one.safetensors", 72, 96)


def test_trailing_timesteps_are_named_in_the_metadata_and_batched_apart(engine: Any, generate: Generate) -> None:
    from minitoolai.engines.diffusers.engine import generate as generate_one

    texts = {}
    for name in ("Euler", "LMS Karras", "DPM fast"):
        image = generate_one(engine, "quick", request(scheduler=name))
        texts[name] = Image.open(io.BytesIO(image.png)).text["parameters"]  # type: ignore[attr-defined]
    assert "Sampler: Euler, Schedule type: SGM Uniform, CFG scale" in texts["Euler"]
    assert "Schedule type" not in texts["LMS Karras"] + texts["DPM fast"]
    assert engine.batch_key("quick", 64, 64) != engine.batch_key("one.safetensors", 64, 64)
    assert apart(generate("quick", scheduler="Euler"), generate("one.safetensors", scheduler="Euler")) > 2
    assert apart(generate("quick", scheduler="DPM fast"), generate("one.safetensors", scheduler="DPM fast")) == 0


# ── memory ────────────────────────────────────────────────────────────────────────────────────────────────


def test_out_of_memory_halves_the_call_and_the_images_stay_the_same(
    checkpoints: Checkpoints, generate: Generate
) -> None:
    from tests.support.diffusion import Watched, pixels_of

    engine = checkpoints.engine()
    denoiser = engine.denoiser("one.safetensors")
    denoiser.networks.unet = watched = Watched(denoiser.networks.unet, most=3)
    batch = engine.open("one.safetensors")
    slot_ids = [batch.add(request(seed=seed, scheduler="Euler")) for seed in range(4)]
    ended = finished(batch)
    # Eight rows do not fit, nor four; two do, and that is remembered.
    assert watched.calls == [2, 2, 2, 2] * 3
    for seed, slot_id in enumerate(slot_ids):
        assert apart(pixels_of(ended[slot_id].png), generate("one.safetensors", seed=seed, scheduler="Euler")) <= 2


def test_an_image_that_does_not_fit_into_memory_fails_alone(checkpoints: Checkpoints) -> None:
    import torch

    from tests.support.diffusion import Watched

    engine = checkpoints.engine()
    denoiser = engine.denoiser("one.safetensors")
    vae = denoiser.networks.vae

    class Choosy:
        """Has no memory for the first picture that it is given, whole or in tiles."""

        first: Any = None

        def __getattr__(self, name: str) -> Any:
            return getattr(vae, name)

        def decode(self, latents: Any, **named: Any) -> Any:
            if self.first is None:
                self.first = latents.clone()
            if torch.equal(self.first, latents):
                raise torch.OutOfMemoryError("CUDA out of memory")
            return vae.decode(latents, **named)

    denoiser.networks.vae = Choosy()
    batch = engine.open("one.safetensors")
    slot_ids = {batch.add(request(seed=seed)) for seed in range(3)}
    ended = finished(batch)
    assert set(ended) == slot_ids
    failed = [image.error for image in ended.values() if not isinstance(image, GeneratedImage)]
    assert failed == ["out of memory for one image of 64 by 64"]

    denoiser.networks.vae = vae
    denoiser.networks.unet = Watched(denoiser.networks.unet, most=0)
    assert [image.error for image in finished_of(batch, request())] == ["out of memory for one image of 64 by 64"]


def finished_of(batch: Any, asked: ImageRequest) -> list[Any]:
    batch.add(asked)
    return list(finished(batch).values())


def test_a_decoder_short_of_memory_continues_in_tiles(checkpoints: Checkpoints, generate: Generate) -> None:
    import torch

    from minitoolai.engines.diffusers.engine import generate as generate_one
    from tests.support.diffusion import pixels_of

    engine = checkpoints.engine()
    vae = engine.denoiser("one.safetensors").networks.vae
    decode = vae.decoder.forward

    def tight(latents: Any, *arguments: Any) -> Any:
        if latents.shape[-1] > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(latents, *arguments)

    vae.decoder.forward = tight
    tiled = pixels_of(generate_one(engine, "one.safetensors", request(width=128, height=96)).png)
    whole = generate("one.safetensors", width=128, height=96)
    assert tiled.shape == whole.shape == (96, 128, 3)
    assert np.corrcoef(tiled.ravel(), whole.ravel())[0, 1] > 0.7


def test_a_decoder_that_overflows_runs_again_in_full_precision(checkpoints: Checkpoints) -> None:
    import torch

    denoiser = checkpoints.engine().denoiser("xl.safetensors")
    vae = denoiser.networks.vae
    # What SDXL's own VAE does: large inside, small at the end.
    vae.decoder.conv_in.weight.mul_(1e5)
    latents = torch.linspace(-1, 1, 4 * 8 * 8).reshape(4, 8, 8)
    wanted = denoiser.decode(latents)
    vae.to(dtype=torch.float16)
    assert not bool(denoiser._decode_once(latents, in_tiles=False).isfinite().all())
    assert np.abs(denoiser.decode(latents).astype(int) - wanted.astype(int)).max() <= 1
    # For this image only: the decoder of all others stays as it was.
    assert vae.dtype == torch.float16


@pytest.mark.parametrize("precision", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize(
    "prompt", ["(a red apple:99999)", f"(a red apple:{'9' * 39})", f"a (red:-{'9' * 39}) (apple:0)"]
)
def test_an_absurd_weight_is_limited_and_changes_nothing_for_others(
    checkpoints: Checkpoints, precision: str, prompt: str
) -> None:
    from minitoolai.engines.diffusers.engine import generate as generate_one
    from tests.support.diffusion import pixels_of

    engine = checkpoints.engine(precision=precision)
    before = pixels_of(generate_one(engine, "one.safetensors", request()).png)
    vae_dtype = engine.denoiser("one.safetensors").networks.vae.dtype
    absurd = pixels_of(generate_one(engine, "one.safetensors", request(prompt=prompt)).png)
    assert absurd.std() > 5, "a black image"
    assert engine.denoiser("one.safetensors").networks.vae.dtype == vae_dtype
    assert apart(pixels_of(generate_one(engine, "one.safetensors", request()).png), before) == 0


@pytest.mark.parametrize("place", ["unet", "vae"])
def test_an_image_that_is_not_finite_fails_alone_and_is_refused(
    checkpoints: Checkpoints, place: str, generate: Generate
) -> None:
    import torch

    from minitoolai.engines.protocols import FailedImage

    engine = checkpoints.engine()
    batch = engine.open("one.safetensors")
    good, bad = batch.add(request(seed=7)), batch.add(request(seed=8, steps=4))
    networks = batch.denoiser.networks
    if place == "unet":
        batch.step()
        image = batch._images[bad]
        image._x = image._x * torch.nan
    else:
        decode = networks.vae.decoder.forward
        calls = []

        def broken(*arguments: Any, **named: Any) -> Any:
            calls.append(1)
            # The good image has fewer steps, so it is decoded first.
            return decode(*arguments, **named) * (torch.nan if len(calls) > 1 else 1)

        networks.vae.decoder.forward = broken
    ended = finished(batch)
    failed = ended[bad]
    assert isinstance(failed, FailedImage)
    assert failed.refused
    assert "not finite" in failed.error
    assert apart(np.asarray(Image.open(io.BytesIO(ended[good].png))).astype(int), generate("one.safetensors")) <= 1


def test_least_recently_used_weights_are_evicted_but_never_during_generation(
    checkpoints: Checkpoints,
) -> None:
    from minitoolai.engines.diffusers.engine import generate as generate_one

    size = {name: (checkpoints.folder / name).stat().st_size for name in ("one.safetensors", "xl.safetensors")}
    # In memory xl.safetensors is twice as large as in its file of half precision.
    room = size["one.safetensors"] + 2 * size["xl.safetensors"] + 2_000_000
    engine = checkpoints.engine(resident_bytes=room)
    generate_one(engine, "one.safetensors", request())
    generate_one(engine, "xl.safetensors", request())
    generate_one(engine, "one.safetensors", request())
    assert engine.loaded() == ["xl.safetensors", "one.safetensors"]
    generate_one(engine, "xl-folder", request())
    assert engine.loaded() == ["one.safetensors", "xl-folder"]

    tight = checkpoints.engine(resident_bytes=1)
    busy = tight.open("one.safetensors")
    busy.add(request())
    generate_one(tight, "xl-folder", request())
    assert tight.loaded() == ["one.safetensors", "xl-folder"]
    assert all(isinstance(image, GeneratedImage) for image in finished(busy).values())
    generate_one(tight, "one-folder", request())
    assert tight.loaded() == ["one-folder"]


# ── what is wrong is said ─────────────────────────────────────────────────────────────────────────────────


def test_the_engine_reports_what_is_missing(checkpoints: Checkpoints, engine: Any) -> None:
    from minitoolai.engines.diffusers.engine import find_device, make_batch_engine, precision_of

    assert engine.why_not_ready("xl.safetensors") is None
    assert "assigns absent to another engine" in engine.why_not_ready("absent")
    nowhere = make_batch_engine({"models": {"a": {"weights": "a.safetensors"}}, "folder": "/nowhere"})
    assert nowhere.why_not_ready("a") == "no file /nowhere/a.safetensors: put it there, or a diffusers folder a"
    # Nothing to draw: nothing is imported, and nothing fails.
    nowhere.start()
    with pytest.raises(EngineError, match="no file"):
        nowhere.open("a")
    with pytest.raises(EngineError, match="there is no device cuda:7"):
        find_device("cuda:7")
    with pytest.raises(EngineError, match="there is no device gpu"):
        find_device("gpu")
    with pytest.raises(EngineError, match="MINITOOLAI_PRECISION='half' is invalid"):
        precision_of("half", find_device("cpu"))
    with pytest.raises(ValueError, match="UniPC"):
        engine.open("one.safetensors").add(request(scheduler="UniPC"))
