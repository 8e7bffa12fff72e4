"""The GPU engine on tiny networks: the same pictures as diffusers' own pipelines, alone or beside others."""

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

Draw = Callable[..., Any]


def apart(one: Any, other: Any) -> int:
    """The largest difference of two pictures, of 255."""
    return int(np.abs(one - other).max())


def request(**fields: Any) -> ImageRequest:
    return ImageRequest(**{"prompt": "a red apple", "width": 64, "height": 64, "seed": 7, "steps": 3} | fields)


def finished(canvas: Any) -> dict[int, Any]:
    """Everything that the canvas ends with, by ticket."""
    ended: dict[int, Any] = {}
    while len(canvas):
        ended |= {image.ticket: image for image in canvas.step()}
    return ended


# ── the right picture ─────────────────────────────────────────────────────────────────────────────────────


# The library compared with, not ours, hands numpy an array in a way that is going.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("negative", ["", "worm"])
@pytest.mark.parametrize("kind", ["xl", "one"])
def test_a_picture_is_the_one_that_diffusers_own_pipeline_draws(
    checkpoints: Checkpoints, draw: Draw, kind: str, negative: str
) -> None:
    import torch
    from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
    from transformers import CLIPTokenizer

    from minitoolai.engines.sampling.noise import GrownNoise
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
        latents=torch.from_numpy(GrownNoise(7, (4, 8, 12)).start())[None],
        output_type="np",
    ).images[0]
    ours = draw(f"{kind}-folder", negative_prompt=negative, scheduler="Euler", steps=4, cfg_scale=2.5, width=96)
    assert ours.std() > 10
    assert apart(ours, np.rint(theirs * 255).astype(int)) <= 1


def test_the_file_draws_what_its_folder_draws(checkpoints: Checkpoints, tmp_path: Any) -> None:
    from minitoolai.engines.diffusers.engine import draw, make_canvas_engine
    from minitoolai.engines.diffusers.prompts import tokens_of_clip
    from tests.support.diffusion import pixels_of

    folder = checkpoints.one.save_folder(tmp_path / "same")
    for file in (folder / "tokenizer").iterdir():
        file.unlink()
    tokens_of_clip()._tokenizer.save(str(folder / "tokenizer" / "tokenizer.json"))
    checkpoints.one.save_file(tmp_path / "file.safetensors")
    models = {"folder": {"weights": "same"}, "file": {"weights": "file.safetensors"}}
    engine = make_canvas_engine({"models": models, "folder": str(tmp_path), "device": "cpu"})
    pictures = [pixels_of(draw(engine, name, request(prompt="a (red:1.4) 苹果")).png) for name in models]
    assert apart(*pictures) == 0


def test_noise_levels_are_told_as_the_timesteps_of_training() -> None:
    from minitoolai.engines.diffusers.batch import timestep_of
    from minitoolai.engines.sampling.schedules import noise_table, sigmas

    table = noise_table()
    for step in (0, 1, 500, 998, 999):
        assert timestep_of(table[step]) == pytest.approx(step, abs=1e-6)
    assert [timestep_of(s) for s in sigmas("Euler", 4)[:-1]] == pytest.approx([999, 666, 333, 0], abs=1e-6)
    assert timestep_of(table[-1] * 1.01) == 999
    assert timestep_of(table[0] * 0.9) == 0


@pytest.mark.parametrize("predicts_v", [False, True], ids=["noise", "v"])
def test_what_the_network_answers_is_taken_for_what_it_was_trained_to_say(engine: Any, predicts_v: bool) -> None:
    import torch

    from minitoolai.engines.diffusers.batch import Denoiser, Row

    painter = engine.painter("one.safetensors")
    truth, noise = torch.full((4, 8, 8), 0.3), torch.linspace(-1, 1, 4 * 8 * 8).reshape(4, 8, 8)
    sigma = 2.9

    class Sure:
        """Knows the picture. In the terms of training: x_t = a x0 + s noise, v = a noise - s x0 (2202.00512)."""

        dtype = torch.float32

        def __call__(self, x: Any, t: Any, **_: Any) -> Any:
            a, s = 1 / (sigma**2 + 1) ** 0.5, sigma / (sigma**2 + 1) ** 0.5
            assert torch.allclose(x[0], a * truth + s * noise, atol=1e-5)
            return ((a * noise - s * truth if predicts_v else noise)[None],)

    networks = type(painter.networks)("sure", Sure(), None, [], is_xl=False, predicts_v=predicts_v)
    sure = Denoiser(networks, torch.device("cpu"), rows_per_call=4, free_memory=lambda: False)
    told = painter.conditioning.of("x")
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
def test_pictures_drawn_together_are_those_drawn_alone(engine: Any, model: str) -> None:
    from minitoolai.engines.diffusers.engine import draw
    from tests.support.diffusion import pixels_of

    canvas = engine.open(model)
    tickets = {canvas.add(MIXED[0]): 0}
    canvas.step()
    # The others join when the first is half drawn; one is taken away again.
    tickets |= {canvas.add(asked): i for i, asked in enumerate(MIXED[1:], 1)}
    gone = canvas.add(request(seed=99))
    canvas.step()
    canvas.remove(gone)
    ended = finished(canvas)
    assert set(ended) == set(tickets)
    for ticket, i in tickets.items():
        assert isinstance(ended[ticket], GeneratedImage)
        assert apart(pixels_of(ended[ticket].png), pixels_of(draw(engine, model, MIXED[i]).png)) <= 2, MIXED[i]


def test_all_eighteen_schedulers_draw_and_differ(engine: Any) -> None:
    from tests.support.diffusion import pixels_of

    canvas = engine.open("one.safetensors")
    tickets = {canvas.add(request(scheduler=name, steps=4)): name for name in SCHEDULERS}
    pictures = {tickets[ticket]: pixels_of(image.png) for ticket, image in finished(canvas).items()}
    assert set(pictures) == set(SCHEDULERS)
    different = [apart(pictures[a], pictures[b]) for a in SCHEDULERS for b in SCHEDULERS if a < b]
    assert min(different) > 2


def test_guidance_one_asks_for_one_row_and_no_negative_prompt(checkpoints: Checkpoints) -> None:
    from tests.support.diffusion import Watched

    engine = checkpoints.engine()
    painter = engine.painter("one.safetensors")
    painter.networks.unet = watched = Watched(painter.networks.unet)
    canvas = engine.open("one.safetensors")
    canvas.add(request(cfg_scale=1.0, scheduler="Euler"))
    canvas.add(request(cfg_scale=1.5, scheduler="Euler"))
    finished(canvas)
    assert watched.calls == [3, 3, 3]


def test_progress_is_told_in_steps(engine: Any) -> None:
    told: list[tuple[int, int]] = []
    canvas = engine.open("one.safetensors")
    canvas.add(request(scheduler="DPM2", steps=3), lambda *step: told.append(step))
    finished(canvas)
    assert told == [(0, 3), (1, 3), (1, 3), (2, 3), (3, 3)]


# ── prompts ───────────────────────────────────────────────────────────────────────────────────────────────


def test_weights_in_a_prompt_count_and_a_weight_of_one_does_not(draw: Draw) -> None:
    plain = draw("xl.safetensors", cfg_scale=4)
    assert apart(draw("xl.safetensors", cfg_scale=4, prompt="a (red:1.0) apple"), plain) == 0
    assert apart(draw("xl.safetensors", cfg_scale=4, prompt="a (red:1.6) apple"), plain) > 2
    assert apart(draw("xl.safetensors", cfg_scale=4, prompt="a [red] apple"), plain) > 0


def test_what_is_beyond_75_tokens_counts(draw: Draw) -> None:
    assert apart(draw("one.safetensors", prompt=LONG + "worm"), draw("one.safetensors", prompt=LONG + "red")) > 0


def test_nothing_unwanted_is_zeros_to_sdxl_and_an_empty_text_to_sd_15(engine: Any) -> None:
    for model, is_zero in (("xl.safetensors", True), ("one.safetensors", False)):
        conditioning = engine.painter(model).conditioning
        nothing, empty = conditioning.of("  ", is_negative=True), conditioning.of("  ")
        assert bool((nothing.words == 0).all()) == is_zero
        assert not bool((empty.words == 0).all())
        assert nothing.words.shape == empty.words.shape == (77, 96 if is_zero else 32)
        assert (nothing.pooled is None) != is_zero


# ── size and what is said of it ───────────────────────────────────────────────────────────────────────────


def test_an_odd_size_is_cut_from_the_next_larger_one_that_can_be_drawn(engine: Any) -> None:
    from minitoolai.engines.diffusers.engine import draw

    image = draw(engine, "one.safetensors", request(width=70, height=91))
    opened = Image.open(io.BytesIO(image.png))
    assert opened.size == (70, 91)
    assert "Size: 70x91, Model: one, Version: minitoolai" in opened.text["parameters"]  # type: ignore[attr-defined]
    assert image.model == "one"
    assert engine.batch_key("one.safetensors", 70, 91) == engine.batch_key("one.safetensors", 72, 96)


def test_levels_that_trail_are_told_and_drawn_apart(engine: Any, draw: Draw) -> None:
    from minitoolai.engines.diffusers.engine import draw as draw_one

    texts = {}
    for name in ("Euler", "LMS Karras", "DPM fast"):
        image = draw_one(engine, "quick", request(scheduler=name))
        texts[name] = Image.open(io.BytesIO(image.png)).text["parameters"]  # type: ignore[attr-defined]
    assert "Sampler: Euler, Schedule type: SGM Uniform, CFG scale" in texts["Euler"]
    assert "Schedule type" not in texts["LMS Karras"] + texts["DPM fast"]
    assert engine.batch_key("quick", 64, 64) != engine.batch_key("one.safetensors", 64, 64)
    assert apart(draw("quick", scheduler="Euler"), draw("one.safetensors", scheduler="Euler")) > 2
    assert apart(draw("quick", scheduler="DPM fast"), draw("one.safetensors", scheduler="DPM fast")) == 0


# ── memory ────────────────────────────────────────────────────────────────────────────────────────────────


def test_out_of_memory_halves_the_call_and_the_pictures_stay_the_same(checkpoints: Checkpoints, draw: Draw) -> None:
    from tests.support.diffusion import Watched, pixels_of

    engine = checkpoints.engine()
    painter = engine.painter("one.safetensors")
    painter.networks.unet = watched = Watched(painter.networks.unet, most=3)
    canvas = engine.open("one.safetensors")
    tickets = [canvas.add(request(seed=seed, scheduler="Euler")) for seed in range(4)]
    ended = finished(canvas)
    # Eight rows do not fit, nor four; two do, and that is remembered.
    assert watched.calls == [2, 2, 2, 2] * 3
    for seed, ticket in enumerate(tickets):
        assert apart(pixels_of(ended[ticket].png), draw("one.safetensors", seed=seed, scheduler="Euler")) <= 2


def test_a_picture_that_does_not_fit_even_alone_fails_alone(checkpoints: Checkpoints) -> None:
    import torch

    from tests.support.diffusion import Watched

    engine = checkpoints.engine()
    painter = engine.painter("one.safetensors")
    vae = painter.networks.vae

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

    painter.networks.vae = Choosy()
    canvas = engine.open("one.safetensors")
    tickets = {canvas.add(request(seed=seed)) for seed in range(3)}
    ended = finished(canvas)
    assert set(ended) == tickets
    failed = [image.error for image in ended.values() if not isinstance(image, GeneratedImage)]
    assert failed == ["out of memory for one picture of 64 by 64"]

    painter.networks.vae = vae
    painter.networks.unet = Watched(painter.networks.unet, most=0)
    assert [image.error for image in finished_of(canvas, request())] == ["out of memory for one picture of 64 by 64"]


def finished_of(canvas: Any, asked: ImageRequest) -> list[Any]:
    canvas.add(asked)
    return list(finished(canvas).values())


def test_a_decoder_short_of_memory_goes_on_in_tiles(checkpoints: Checkpoints, draw: Draw) -> None:
    import torch

    from minitoolai.engines.diffusers.engine import draw as draw_one
    from tests.support.diffusion import pixels_of

    engine = checkpoints.engine()
    vae = engine.painter("one.safetensors").networks.vae
    decode = vae.decoder.forward

    def tight(latents: Any, *arguments: Any) -> Any:
        if latents.shape[-1] > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(latents, *arguments)

    vae.decoder.forward = tight
    tiled = pixels_of(draw_one(engine, "one.safetensors", request(width=128, height=96)).png)
    whole = draw("one.safetensors", width=128, height=96)
    assert tiled.shape == whole.shape == (96, 128, 3)
    assert np.corrcoef(tiled.ravel(), whole.ravel())[0, 1] > 0.7


def test_a_decoder_that_overflows_is_run_again_in_full_precision(checkpoints: Checkpoints) -> None:
    import torch

    painter = checkpoints.engine().painter("xl.safetensors")
    vae = painter.networks.vae
    # What SDXL's own VAE does: large inside, small at the end.
    vae.decoder.conv_in.weight.mul_(1e5)
    latents = torch.linspace(-1, 1, 4 * 8 * 8).reshape(4, 8, 8)
    wanted = painter.decode(latents)
    vae.to(dtype=torch.float16)
    assert not bool(painter._decode_once(latents, in_tiles=False).isfinite().all())
    assert np.abs(painter.decode(latents).astype(int) - wanted.astype(int)).max() <= 1
    assert vae.dtype == torch.float32


def test_weights_are_kept_by_last_use_within_their_bytes_and_never_taken_from_under_a_picture(
    checkpoints: Checkpoints,
) -> None:
    from minitoolai.engines.diffusers.engine import draw

    size = {name: (checkpoints.folder / name).stat().st_size for name in ("one.safetensors", "xl.safetensors")}
    # In memory xl.safetensors is twice as large as in its file of half precision.
    room = size["one.safetensors"] + 2 * size["xl.safetensors"] + 2_000_000
    engine = checkpoints.engine(resident_bytes=room)
    draw(engine, "one.safetensors", request())
    draw(engine, "xl.safetensors", request())
    draw(engine, "one.safetensors", request())
    assert engine.resident() == ["xl.safetensors", "one.safetensors"]
    draw(engine, "xl-folder", request())
    assert engine.resident() == ["one.safetensors", "xl-folder"]

    tight = checkpoints.engine(resident_bytes=1)
    busy = tight.open("one.safetensors")
    busy.add(request())
    draw(tight, "xl-folder", request())
    assert tight.resident() == ["one.safetensors", "xl-folder"]
    assert all(isinstance(image, GeneratedImage) for image in finished(busy).values())
    draw(tight, "one-folder", request())
    assert tight.resident() == ["one-folder"]


# ── what is wrong is said ─────────────────────────────────────────────────────────────────────────────────


def test_an_engine_says_what_it_lacks(checkpoints: Checkpoints, engine: Any) -> None:
    from minitoolai.engines.diffusers.engine import find_device, make_canvas_engine, precision_of

    assert engine.why_not_ready("xl.safetensors") is None
    assert "gives absent to somebody else" in engine.why_not_ready("absent")
    nowhere = make_canvas_engine({"models": {"a": {"weights": "a.safetensors"}}, "folder": "/nowhere"})
    assert nowhere.why_not_ready("a") == "no file /nowhere/a.safetensors: put it there, or a diffusers folder a"
    # Nothing to draw: nothing is imported, and nothing fails.
    nowhere.start()
    with pytest.raises(EngineError, match="no file"):
        nowhere.open("a")
    with pytest.raises(EngineError, match="there is no device cuda:7"):
        find_device("cuda:7")
    with pytest.raises(EngineError, match="there is no device gpu"):
        find_device("gpu")
    with pytest.raises(EngineError, match="MINITOOLAI_PRECISION='half' is wrong"):
        precision_of("half", find_device("cpu"))
    with pytest.raises(ValueError, match="UniPC"):
        engine.open("one.safetensors").add(request(scheduler="UniPC"))
