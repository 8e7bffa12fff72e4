"""Captions: what a prompt in anybody's words is taken to mean."""

import numpy as np
import pytest

from minitoolai.engines.images.sketch import FOLDER, STYLES, Words


@pytest.fixture(scope="module")
def words():
    return Words(FOLDER)


def test_every_name_means_itself(words):
    mistaken = [name for name in words.names if words.meant(name)[0][1] > 0.5 and words.meant(name)[0][0] != name]
    assert mistaken == []
    assert len(words.names) > 1300


@pytest.mark.parametrize(
    ("prompt", "meant"),
    [
        ("happy kitty", "grinning cat"),
        ("slice of pizza", "pizza"),
        ("a puppy", "dog"),
        ("PIZZA!", "pizza"),
        ("a picture of a bike", "bicycle"),
        ("scissors, flat style", "scissors"),
    ],
)
def test_other_words_for_a_thing_mean_that_thing(words, prompt, meant):
    assert words.meant(prompt)[0][0] == meant


def test_style_words_change_the_caption_but_not_the_thing(words):
    plain, flat, solid = (words.embed(text) for text in ("pizza", "pizza, flat style", "pizza, 3d style"))
    assert not np.allclose(plain, flat)
    assert not np.allclose(flat, solid)
    assert words.meant("pizza, flat style") == words.meant("pizza, 3d style")


def test_the_seed_chooses_a_style_only_where_the_caption_names_none(words):
    for seed, style in enumerate(STYLES):
        np.testing.assert_array_equal(words.embed("pizza", seed), words.embed(f"pizza, {style}"))
        np.testing.assert_array_equal(words.embed("pizza, Flat Style", seed), words.embed("pizza, flat style"))


@pytest.mark.parametrize("prompt", ["", " ", "the", "...", "3d style", "赤いりんご"])
def test_a_caption_without_telling_words_is_still_a_caption(words, prompt):
    assert np.isfinite(words.embed(prompt)).all()
