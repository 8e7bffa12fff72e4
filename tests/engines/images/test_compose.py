"""Tests of composed images: looks, several things, colours, backgrounds, and an image that fails alone."""

from __future__ import annotations

import io
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from minitoolai.engines.images.compose.backgrounds import BACKGROUNDS, paint_background
from minitoolai.engines.images.compose.layers import cut_out
from minitoolai.engines.images.compose.looks import LOOKS
from minitoolai.engines.images.guidance import MOST_NOISE, effective_scale, guided, shown
from minitoolai.engines.images.sketch import FOLDER, SketchEngine, generate
from minitoolai.engines.protocols import FailedImage, ImageRequest

SIZE = {"width": 256, "height": 256}


@pytest.fixture(scope="module")
def engine():
    loaded = SketchEngine()
    loaded.start()
    yield loaded
    loaded.stop()


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def draw(engine, prompt, **fields):
    return pixels(generate(engine, ImageRequest(prompt=prompt, **(SIZE | {"seed": 3, "steps": 2} | fields))).png)


@pytest.mark.parametrize("prompt", ["a cat", "a red car on the beach"])
def test_every_pair_of_models_draws_another_picture(engine, prompt):
    batch = engine.open()
    slots = {batch.add(ImageRequest(prompt=prompt, seed=5, model=name, **SIZE)): name for name in LOOKS}
    drawn = {}
    while len(batch):
        drawn.update((slots[image.slot_id], pixels(image.png)) for image in batch.step())
    assert len(drawn) == 15
    gaps = {(a, b): np.abs(drawn[a] - drawn[b]).mean() for a, b in combinations(drawn, 2)}
    assert min(gaps.values()) >= 8, min(gaps, key=gaps.get)


def test_composed_images_do_not_depend_on_their_batch(engine):
    prompts = [
        "a cat and a dog in the forest",
        "a blue apple",
        "three owls at night",
        "sunset over the sea",
        "a cat on a car",
    ]
    requests = [
        ImageRequest(prompt=prompt, seed=i, model=model, **SIZE)
        for i, (prompt, model) in enumerate(zip(prompts, list(LOOKS)[::3], strict=True))
    ]
    batch, together = engine.open(), {}
    slots = [batch.add(request) for request in requests]
    while len(batch):
        together.update((image.slot_id, image.png) for image in batch.step())
    for slot, request in zip(slots, requests, strict=True):
        assert np.abs(pixels(together[slot]) - pixels(generate(engine, request).png)).mean() < 0.1


def test_a_colour_is_given_to_the_thing_and_not_to_the_paper(engine):
    image = draw(engine, "a blue apple", steps=4)
    blue = image[..., 2] - image[..., 0] > 60
    assert 0.1 < blue.mean() < 0.8
    assert (image[0] > 200).all()


def test_two_things_are_side_by_side(engine):
    image = draw(engine, "a red apple and a banana", width=512)
    left, right = image[:, :256], image[:, 256:]
    assert ((left[..., 0] - left[..., 1]) > 80).sum() > 1000
    assert ((right[..., 1] - right[..., 2]) > 60).sum() > 1000


@pytest.mark.parametrize("name", BACKGROUNDS)
@pytest.mark.parametrize(("width", "height"), [(640, 256), (256, 640)])
def test_a_background_fills_any_size_and_depends_on_its_seed(name, width, height):
    first, ground = paint_background(name, "", width, height, 1)
    again, _ = paint_background(name, "", width, height, 1)
    night, _ = paint_background(name, "night", width, height, 1)
    assert first.shape == (height, width, 3)
    assert (first == again).all()
    assert 0.5 < ground.feet < 1
    # No margin of one colour.
    assert all(side.std() > 0.5 for side in (first[:, 0], first[:, -1]))
    if name not in ("night", "space"):
        assert night.mean() < first.mean()


def test_at_least_ten_backgrounds_differ():
    painted = [paint_background(name, "", 256, 256, 1)[0] for name in BACKGROUNDS]
    assert len(painted) >= 10
    assert min(np.abs(a - b).mean() for a, b in combinations(painted, 2)) > 3


@pytest.mark.parametrize("prompt", ["(a red apple:99999)", f"(a red apple:{'9' * 39})"])
def test_an_absurd_weight_draws_the_thing(engine, prompt):
    assert np.abs(draw(engine, prompt) - draw(engine, "a red apple")).max() <= 2


def test_guidance_saturates_and_keeps_the_range_of_the_prediction():
    assert effective_scale(1) == 1
    assert effective_scale(2) < effective_scale(5) < effective_scale(7) <= 2.5
    random = np.random.default_rng(1)
    positive, negative = random.standard_normal((2, 4, 16, 16))
    guess = guided(positive, negative, 7.0, 5.0)
    assert np.abs(guess).max() <= np.abs(positive).max() * 1.25
    assert (guided(positive, negative, 7.0, 0.1) == positive).all()
    assert np.isclose((shown(positive * 9, positive * 0, 1.0) ** 2).mean(), MOST_NOISE**2)


@pytest.mark.parametrize("call", range(4))
def test_an_image_with_values_that_are_not_finite_at_any_step_fails_alone(engine, call):
    good, bad = ImageRequest(prompt="sun", seed=1, **SIZE), ImageRequest(prompt="sun", seed=2, **SIZE)
    alone = pixels(generate(engine, good).png)
    batch = engine.open()
    kept, broken = batch.add(good), batch.add(bad)
    for _ in range(call):
        assert batch.step() == []
    # What an overflow leaves behind: the state of one sampler is not a number.
    x, sigma = batch._images[broken]._states[0]
    batch._images[broken]._states[0] = x * np.nan, sigma
    ended = []
    while len(batch):
        ended.extend(batch.step())
    failed = [image for image in ended if isinstance(image, FailedImage)]
    assert [image.slot_id for image in failed] == [broken]
    assert "not finite" in failed[0].error
    assert np.abs(pixels(next(i.png for i in ended if i.slot_id == kept)) - alone).max() <= 2


def test_the_files_of_the_model_stay_small():
    assert sum(file.stat().st_size for file in FOLDER.glob("*")) < 24_000_000


class Broken:
    """A network that gives what is no number, for the images that are chosen."""

    def __init__(self, network, chosen):
        self.network, self.chosen = network, chosen

    def run(self, names, inputs):
        outputs = self.network.run(names, inputs)
        (given,) = inputs.values()
        return [np.where(self.chosen(given), np.nan, outputs[0])]


def test_pixels_that_are_not_finite_fail_their_image_alone():
    engine = SketchEngine()
    engine.start()
    good, bad = ImageRequest(prompt="sun", seed=1, **SIZE), ImageRequest(prompt="sun", seed=2, **SIZE)
    alone = pixels(generate(engine, good).png)
    batch = engine.open()
    kept, broken = batch.add(good), batch.add(bad)
    decoded = []
    model = engine._model
    model._decoder = Broken(model._decoder, lambda given: decoded.append(given) or len(decoded) == 2)
    ended = {}
    while len(batch):
        ended |= {image.slot_id: image for image in batch.step()}
    assert isinstance(ended[broken], FailedImage)
    assert "pixels that are not finite" in ended[broken].error
    assert np.abs(pixels(ended[kept].png) - alone).max() <= 2


def test_an_upload_with_latents_that_are_not_finite_is_not_begun():
    engine = SketchEngine()
    engine.start()
    model = engine._model
    upload = Image.new("RGB", (256, 256), "red")
    file = io.BytesIO()
    upload.save(file, "PNG")
    edit = ImageRequest(prompt="sun", task="edit", images=(file.getvalue(),), strength=0.5, **SIZE)
    generate(engine, edit)
    model._encoder = Broken(model._encoder, lambda _: True)
    batch = engine.open()
    with pytest.raises(FloatingPointError, match="not finite for the uploaded image"):
        batch.add(edit)
    assert len(batch) == 0


def test_a_smudge_on_the_paper_is_not_cut_out_and_a_second_part_of_a_thing_is():
    square = np.full((256, 256, 3), 255, np.uint8)
    square[60:160, 60:160] = (200, 40, 30)
    alone = cut_out(square).alpha.shape
    square[200:215, 200:215] = (225, 225, 240)
    assert cut_out(square).alpha.shape == alone
    square[200:215, 200:215] = (90, 90, 200)
    assert cut_out(square).alpha.shape[0] > alone[0] + 40
    pale = np.full((256, 256, 3), 255, np.uint8)
    pale[60:160, 60:160] = (232, 232, 236)
    assert min(cut_out(pale).alpha.shape) >= 96
