"""The embedded image engine: what a picture depends on, and what it never depends on."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from minitoolai.engines.images.sketch import MODEL, SketchEngine, draw
from minitoolai.engines.protocols import ImageRequest
from minitoolai.engines.sampling import SCHEDULERS

SMALL = {"width": 256, "height": 256}
MIXED = [
    ImageRequest(prompt="red apple", seed=1, **SMALL),
    ImageRequest(prompt="pizza, 3d style", scheduler="DPM++ 2M Karras", steps=8, cfg_scale=4, seed=2, **SMALL),
    ImageRequest(prompt="sailboat", scheduler="Euler a", steps=3, cfg_scale=1, seed=3, **SMALL),
    ImageRequest(prompt="dog face", negative_prompt="cat", scheduler="LMS", steps=6, seed=4, **SMALL),
    ImageRequest(prompt="rocket", scheduler="DPM fast", steps=5, seed=5, width=512, height=256),
    ImageRequest(prompt="red heart", scheduler="Heun", steps=1, seed=6, **SMALL),
    ImageRequest(prompt="tree", scheduler="DPM2 a Karras", steps=7, cfg_scale=7, seed=7, **SMALL),
]


@pytest.fixture(scope="module")
def engine():
    loaded = SketchEngine()
    loaded.start()
    yield loaded
    loaded.stop()


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def drawn_together(canvas, requests):
    tickets = [canvas.add(request) for request in requests]
    finished = {}
    while len(canvas):
        finished.update((image.ticket, image.png) for image in canvas.step())
    return [finished[ticket] for ticket in tickets]


def test_the_engine_is_ready_as_installed():
    assert SketchEngine().why_not_ready() is None


def test_a_mixed_batch_draws_the_same_pictures_as_one_at_a_time(engine):
    together = drawn_together(engine.open(), MIXED)
    for request, png in zip(MIXED, together, strict=True):
        alone = draw(engine, request).png
        assert np.abs(pixels(png) - pixels(alone)).max() <= 2


def test_a_picture_that_joins_while_others_are_half_drawn_is_the_same_picture(engine):
    canvas, late = engine.open(), MIXED[0]
    canvas.add(MIXED[1])
    canvas.step()
    canvas.step()
    ticket = canvas.add(late)
    finished = []
    while len(canvas):
        finished.extend(canvas.step())
    joined = next(image.png for image in finished if image.ticket == ticket)
    assert np.abs(pixels(joined) - pixels(draw(engine, late).png)).max() <= 2


def test_a_removed_picture_is_not_finished_and_does_not_disturb_the_others(engine):
    canvas = engine.open()
    kept, gone = canvas.add(MIXED[0]), canvas.add(MIXED[1])
    canvas.step()
    canvas.remove(gone)
    canvas.remove(12345)
    finished = []
    while len(canvas):
        finished.extend(canvas.step())
    assert [image.ticket for image in finished] == [kept]
    assert canvas.step() == []


def test_the_same_seed_is_the_same_file_and_another_seed_another_picture(engine):
    first = draw(engine, ImageRequest(prompt="cat face, flat style", seed=11, **SMALL))
    again = draw(engine, ImageRequest(prompt="cat face, flat style", seed=11, **SMALL))
    other = draw(engine, ImageRequest(prompt="cat face, flat style", seed=12, **SMALL))
    assert first.png == again.png
    assert np.abs(pixels(first.png) - pixels(other.png)).max() > 2


#: What lies between is walked through without a model in tests/engines/sampling.
@pytest.mark.parametrize("counts", [(1, 3, 8), pytest.param((2, 4, 5, 6, 7), marks=pytest.mark.acceptance)])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_draws_at_every_step_count(engine, scheduler, counts):
    requests = [ImageRequest(prompt="sun", scheduler=scheduler, steps=steps, seed=steps, **SMALL) for steps in counts]
    for png in drawn_together(engine.open(), requests):
        assert pixels(png).shape == (256, 256, 3)
        assert pixels(png).std() > 5


@pytest.mark.parametrize(("width", "height"), [(1024, 1024), (1344, 256), (257, 999), (768, 512)])
def test_the_picture_has_the_asked_size_with_the_thing_in_the_middle(engine, width, height):
    request = ImageRequest(prompt="red heart", seed=1, width=width, height=height)
    drawn = pixels(draw(engine, request).png)
    assert drawn.shape == (height, width, 3)
    redness = drawn[..., 0] - drawn[..., 1]
    rows, columns = np.nonzero(redness > 100)
    assert abs(rows.mean() - height / 2) < 0.1 * min(width, height)
    assert abs(columns.mean() - width / 2) < 0.1 * min(width, height)


def test_without_guidance_the_negative_prompt_does_nothing_and_with_guidance_it_does(engine):
    def drawn(cfg_scale, negative):
        request = ImageRequest(prompt="face", negative_prompt=negative, cfg_scale=cfg_scale, seed=3, **SMALL)
        return pixels(draw(engine, request).png)

    assert (drawn(1, "") == drawn(1, "cat")).all()
    assert (drawn(3, "") != drawn(3, "cat")).any()


def test_progress_counts_steps_up_to_the_last(engine):
    told = []
    request = ImageRequest(prompt="sun", scheduler="DPM++ SDE", steps=4, seed=1, **SMALL)
    draw(engine, request, lambda done, of: told.append((done, of)))
    assert told == [(0, 4), (1, 4), (1, 4), (2, 4), (2, 4), (3, 4), (4, 4)]


def test_the_picture_says_what_really_drew_it_in_the_form_others_read(engine):
    request = ImageRequest(
        prompt="red apple\non a table",
        negative_prompt="worm",
        scheduler="DPM++ 2M Karras",
        steps=5,
        cfg_scale=2.5,
        width=300,
        height=256,
        seed=42,
    )
    image = draw(engine, request)
    assert image.model == MODEL
    assert Image.open(io.BytesIO(image.png)).text["parameters"] == (
        "red apple\non a table\nNegative prompt: worm\n"
        "Steps: 5, Sampler: DPM++ 2M Karras, CFG scale: 2.5, Seed: 42, Size: 300x256, "
        f"Model: {MODEL}, Version: minitoolai 0.1.0"
    )


@pytest.mark.parametrize("prompt", ["maçã vermelha", "赤いりんご 🍎", "Zażółć"])
def test_a_prompt_in_any_script_survives_in_the_metadata(engine, prompt):
    image = draw(engine, ImageRequest(prompt=prompt, steps=1, scheduler="Euler", **SMALL))
    assert Image.open(io.BytesIO(image.png)).text["parameters"].startswith(prompt + "\n")


@pytest.mark.parametrize("prompt", [" ", "...", "\x00", "word " * 5000, "🦄" * 500])
def test_prompts_without_sense_still_draw_something(engine, prompt):
    assert draw(engine, ImageRequest(prompt=prompt, steps=1, scheduler="Euler", **SMALL)).png


@pytest.mark.parametrize("seed", [0, 2**53, 2**64 - 1, -1])
def test_any_whole_number_is_a_seed(engine, seed):
    assert draw(engine, ImageRequest(prompt="sun", steps=1, seed=seed, **SMALL)).png


def test_a_canvas_may_hold_more_rows_than_one_model_call(engine):
    requests = [ImageRequest(prompt="sun", steps=1, scheduler="Euler", seed=i, **SMALL) for i in range(40)]
    assert len(drawn_together(engine.open(), requests)) == 40


def test_importing_the_engine_loads_no_heavy_library():
    heavy = "{'numpy', 'onnxruntime', 'PIL', 'tokenizers'}"
    modules = "minitoolai.cli.main, minitoolai.cli.draw, minitoolai.engines.images.sketch"
    code = f"import sys, {modules}; print({heavy} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "set()\n"
