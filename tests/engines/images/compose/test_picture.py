"""Composed images: several things, colours, and an image that fails alone."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from minitoolai.engines.images.compose.looks import LOOKS
from minitoolai.engines.images.sketch import SketchEngine, generate
from minitoolai.engines.protocols import FailedImage, ImageRequest

SIZE = {"width": 256, "height": 256}


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def draw(engine, prompt, **fields):
    return pixels(generate(engine, ImageRequest(prompt=prompt, **(SIZE | {"seed": 3, "steps": 2} | fields))).png)


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


@pytest.mark.parametrize("prompt", ["(a red apple:99999)", f"(a red apple:{'9' * 39})"])
def test_an_absurd_weight_draws_the_thing(engine, prompt):
    assert np.abs(draw(engine, prompt) - draw(engine, "a red apple")).max() <= 2


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
