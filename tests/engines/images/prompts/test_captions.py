"""Tests of the caption encoder: any wording of a prompt is mapped to the names that the model knows."""

import numpy as np
import pytest

from minitoolai.engines.images.prompts.captions import STYLES, CaptionEncoder
from minitoolai.engines.images.sketch import FOLDER


@pytest.fixture(scope="module")
def captions():
    return CaptionEncoder(FOLDER)


def test_every_name_is_mapped_to_itself(captions):
    mistaken = [
        name
        for name in captions.names
        if captions.nearest_names(name)[0][1] > 0.5 and captions.nearest_names(name)[0][0] != name
    ]
    assert mistaken == []
    assert len(captions.names) > 1300


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("happy kitty", "grinning cat"),
        ("slice of pizza", "pizza"),
        ("a puppy", "dog"),
        ("PIZZA!", "pizza"),
        ("a picture of a bike", "bicycle"),
        ("scissors, flat style", "scissors"),
    ],
)
def test_synonyms_are_mapped_to_the_same_name(captions, prompt, name):
    assert captions.nearest_names(prompt)[0][0] == name


def test_style_words_change_the_vector_but_not_the_name(captions):
    plain, flat, solid = (captions.embed(text) for text in ("pizza", "pizza, flat style", "pizza, 3d style"))
    assert not np.allclose(plain, flat)
    assert not np.allclose(flat, solid)
    assert captions.nearest_names("pizza, flat style") == captions.nearest_names("pizza, 3d style")


def test_the_seed_chooses_a_style_only_if_the_caption_names_none(captions):
    for seed, style in enumerate(STYLES):
        np.testing.assert_array_equal(captions.embed("pizza", seed), captions.embed(f"pizza, {style}"))
        np.testing.assert_array_equal(captions.embed("pizza, Flat Style", seed), captions.embed("pizza, flat style"))


@pytest.mark.parametrize("prompt", ["", " ", "the", "...", "3d style", "赤いりんご"])
def test_a_caption_of_stop_words_still_has_a_vector(captions, prompt):
    assert np.isfinite(captions.embed(prompt)).all()
