"""Tests of the embedded image model: an image depends on its request only, never on the rest of its batch."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from minitoolai.engines.images.sketch import FOLDER, MODEL, SketchEngine, generate
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


def generate_together(batch, requests):
    slot_ids = [batch.add(request) for request in requests]
    finished = {}
    while len(batch):
        finished.update((image.slot_id, image.png) for image in batch.step())
    return [finished[slot_id] for slot_id in slot_ids]


def test_the_engine_is_ready_as_installed():
    assert SketchEngine().why_not_ready() is None


def test_a_mixed_batch_gives_the_same_images_as_one_at_a_time(engine):
    together = generate_together(engine.open(), MIXED)
    for request, png in zip(MIXED, together, strict=True):
        alone = generate(engine, request).png
        assert np.abs(pixels(png) - pixels(alone)).max() <= 2


def test_an_image_that_joins_a_running_batch_is_the_same_image(engine):
    batch, late = engine.open(), MIXED[0]
    batch.add(MIXED[1])
    batch.step()
    batch.step()
    slot_id = batch.add(late)
    finished = []
    while len(batch):
        finished.extend(batch.step())
    joined = next(image.png for image in finished if image.slot_id == slot_id)
    assert np.abs(pixels(joined) - pixels(generate(engine, late).png)).max() <= 2


def test_a_removed_image_is_not_finished_and_does_not_affect_the_others(engine):
    batch = engine.open()
    kept, gone = batch.add(MIXED[0]), batch.add(MIXED[1])
    batch.step()
    batch.remove(gone)
    batch.remove(12345)
    finished = []
    while len(batch):
        finished.extend(batch.step())
    assert [image.slot_id for image in finished] == [kept]
    assert batch.step() == []


def test_equal_seeds_give_equal_files_and_other_seeds_other_images(engine):
    first = generate(engine, ImageRequest(prompt="cat face, flat style", seed=11, **SMALL))
    again = generate(engine, ImageRequest(prompt="cat face, flat style", seed=11, **SMALL))
    other = generate(engine, ImageRequest(prompt="cat face, flat style", seed=12, **SMALL))
    assert first.png == again.png
    assert np.abs(pixels(first.png) - pixels(other.png)).max() > 2


#: tests/engines/sampling covers the other step counts without a model.
@pytest.mark.parametrize(
    "counts", [(3,), *(pytest.param(counts, marks=pytest.mark.acceptance) for counts in ((1, 8), (2, 4, 5, 6, 7)))]
)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_works_at_every_step_count(engine, scheduler, counts):
    requests = [ImageRequest(prompt="sun", scheduler=scheduler, steps=steps, seed=steps, **SMALL) for steps in counts]
    for png in generate_together(engine.open(), requests):
        assert pixels(png).shape == (256, 256, 3)
        assert pixels(png).std() > 5


@pytest.mark.parametrize(("width", "height"), [(1024, 1024), (1344, 256), (257, 999), (768, 512)])
def test_the_image_has_the_requested_size_and_a_centred_subject(engine, width, height):
    request = ImageRequest(prompt="red heart", seed=1, width=width, height=height)
    image = pixels(generate(engine, request).png)
    assert image.shape == (height, width, 3)
    redness = image[..., 0] - image[..., 1]
    rows, columns = np.nonzero(redness > 100)
    assert abs(rows.mean() - height / 2) < 0.1 * min(width, height)
    assert abs(columns.mean() - width / 2) < 0.1 * min(width, height)


def test_the_negative_prompt_has_an_effect_only_with_guidance(engine):
    def pixels_of(cfg_scale, negative):
        request = ImageRequest(prompt="face", negative_prompt=negative, cfg_scale=cfg_scale, seed=3, **SMALL)
        return pixels(generate(engine, request).png)

    assert (pixels_of(1, "") == pixels_of(1, "cat")).all()
    assert (pixels_of(3, "") != pixels_of(3, "cat")).any()


def test_progress_is_reported_in_steps_up_to_the_last(engine):
    reported = []
    request = ImageRequest(prompt="sun", scheduler="DPM++ SDE", steps=4, seed=1, **SMALL)
    generate(engine, request, lambda done, of: reported.append((done, of)))
    assert reported == [(0, 4), (1, 4), (1, 4), (2, 4), (2, 4), (3, 4), (4, 4)]


def test_the_metadata_names_the_model_in_the_format_of_automatic1111(engine):
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
    image = generate(engine, request)
    assert image.model == MODEL
    assert Image.open(io.BytesIO(image.png)).text["parameters"] == (
        "red apple\non a table\nNegative prompt: worm\n"
        "Steps: 5, Sampler: DPM++ 2M Karras, CFG scale: 2.5, Seed: 42, Size: 300x256, "
        f"Model: {MODEL}, Version: minitoolai 0.1.0"
    )


@pytest.mark.parametrize("prompt", ["maçã vermelha", "赤いりんご 🍎", "Zażółć"])
def test_the_metadata_preserves_prompts_in_any_script(engine, prompt):
    image = generate(engine, ImageRequest(prompt=prompt, steps=1, scheduler="Euler", **SMALL))
    assert Image.open(io.BytesIO(image.png)).text["parameters"].startswith(prompt + "\n")


@pytest.mark.parametrize("prompt", [" ", "...", "\x00", "word " * 5000, "🦄" * 500])
def test_meaningless_prompts_still_give_an_image(engine, prompt):
    assert generate(engine, ImageRequest(prompt=prompt, steps=1, scheduler="Euler", **SMALL)).png


@pytest.mark.parametrize("seed", [0, 2**53, 2**64 - 1, -1])
def test_any_integer_is_a_valid_seed(engine, seed):
    assert generate(engine, ImageRequest(prompt="sun", steps=1, seed=seed, **SMALL)).png


def test_a_batch_may_exceed_the_rows_of_one_model_call(engine):
    requests = [ImageRequest(prompt="sun", steps=1, scheduler="Euler", seed=i, **SMALL) for i in range(40)]
    assert len(generate_together(engine.open(), requests)) == 40


def test_importing_the_engine_loads_no_heavy_library():
    heavy = "{'numpy', 'onnxruntime', 'PIL', 'tokenizers'}"
    modules = "minitoolai.cli.main, minitoolai.cli.draw, minitoolai.engines.images.sketch"
    code = f"import sys, {modules}; print({heavy} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "set()\n"


def test_the_files_of_the_model_stay_small():
    assert sum(file.stat().st_size for file in FOLDER.glob("*")) < 24_000_000
