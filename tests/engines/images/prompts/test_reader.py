"""Tests of the prompt reader: what a prompt in one of seven languages asks the sketch model for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tools.train_sketch.score_prompts import LISTS, cases, shown_in

from minitoolai.engines.images.prompts.reader import PromptReader, Subject
from minitoolai.engines.images.prompts.words import Words
from minitoolai.engines.images.sketch import FOLDER


@pytest.fixture(scope="module")
def reader() -> PromptReader:
    return PromptReader(Words(FOLDER, np.load(FOLDER / "words.npz")["names"].tolist()))


@pytest.mark.parametrize(
    "prompt",
    [
        "photo of a 20 year old woman in a suit, ultra realistic, 8k, cinematic lighting",
        "ultra realistic close up portrait ((beautiful pale cyberpunk female with heavy black eyeliner)), blue eyes, "
        "shaved side haircut, hyper detail, cinematic lighting, magic neon, dark red city, Canon EOS R3, nikon, f/1.4, "
        "ISO 200, 1/160s, 8K, RAW, unedited, symmetrical balance, in-frame, 8K",
        "masterpiece, best quality, 1girl, solo, long hair, trending on artstation",
    ],
)
def test_style_age_and_clothes_do_not_become_the_subject(reader: PromptReader, prompt: str) -> None:
    assert [subject.name for subject in reader.read(prompt).subjects] == ["woman"]


@pytest.mark.parametrize(
    ("prompt", "subjects"),
    [
        ("a cat and a dog", (Subject("cat"), Subject("dog"))),
        ("a blue apple", (Subject("red apple", "blue"),)),
        ("three green apples", (Subject("green apple", number=3),)),
        ("dois gatos pretos", (Subject("black cat", number=2),)),
        ("ein roter Apfel", (Subject("red apple"),)),
        ("kırmızı bir elma", (Subject("red apple"),)),
        ("an orange cat", (Subject("cat", "orange"),)),
        ("orange", (Subject("tangerine"),)),
        ("🍎", (Subject("red apple"),)),
        ("a cat, (dog:1.5)", (Subject("dog"), Subject("cat"))),
        ("a cat, [[[[[[dog]]]]]]", (Subject("cat"),)),
        ("(a red apple:99999)", (Subject("red apple"),)),
        ("(a red apple:" + "9" * 400 + ")", (Subject("red apple"),)),
    ],
)
def test_things_have_colour_number_and_weight(reader: PromptReader, prompt: str, subjects: tuple[Subject, ...]) -> None:
    assert reader.read(prompt).subjects == subjects


def test_a_scene_has_a_place_a_light_and_what_things_stand_on(reader: PromptReader) -> None:
    scene = reader.read("a red car on a mountain road at sunset")
    assert (scene.background, scene.light) == ("mountains", "sunset")
    scene = reader.read("a cat on a car")
    assert scene.support == Subject("automobile")
    assert reader.read("a black dog on a blue background").plain == "blue"
    assert reader.read("sunset over the ocean").subjects == ()


@pytest.mark.parametrize(
    ("name", "share"), [("en", 0.95), ("held_out", 0.85)] + [(n, 0.9) for n in ("de", "fr", "es", "pt", "tr", "id")]
)
def test_prompts_as_people_write_them_show_what_they_must(reader: PromptReader, name: str, share: float) -> None:
    listed = cases(Path(LISTS) / f"{name}.txt")
    right = [all(one & shown_in(reader.read(prompt)) for one in wanted) for prompt, wanted in listed]
    assert sum(right) / len(right) >= share


@pytest.mark.parametrize(
    "prompt", ["", " ", "...", "\x00", "((((", "word " * 5000, "🦄" * 500, ",,,|||", "赤いりんご", "🏳️‍🌈" * 50]
)
def test_any_text_is_accepted(reader: PromptReader, prompt: str) -> None:
    assert len(reader.read(prompt).subjects) <= 4


def test_a_name_of_the_model_means_itself(reader: PromptReader) -> None:
    words = Words(FOLDER, np.load(FOLDER / "words.npz")["names"].tolist())
    wrong = [name for name in words.names if [s.name for s in reader.read(f"{name}, 3d style").subjects] != [name]]
    assert len(wrong) <= 0.05 * len(words.names), wrong
