"""Measure the watermarks of images and speech, and print the tables of docs/howto/marks.md.

    pip install --no-deps --require-hashes --target .marks -r requirements-marks.txt
    export PYTHONPATH=.marks
    python -m tools.marks_table measure FIRST LAST >> results.jsonl   images FIRST to LAST-1 against all attacks
    python -m tools.marks_table crops FIRST LAST >> results.jsonl     unmarked crops, which must have no mark
    python -m tools.marks_table speech FIRST LAST >> results.jsonl    clips of the embedded voice
    python -m tools.marks_table table results.jsonl                   the tables

Of the images, half are drawn by the embedded model, a quarter are photographs from the packages scikit-image and
scikit-learn, and an eighth each are synthetic photographs and drawings. Their sides are 256, 512 and 1024 pixels in
turn. The audibility of the mark in speech is measured by PESQ (ITU-T P.862.2, wide band).
"""

from __future__ import annotations

import importlib.util
import io
import json
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tests.support.marks import ATTACKS, CODEC, CREATED_MS, drawing, luminance, photograph, psnr

from minitoolai.core.marks import CLEAR_SYNC
from minitoolai.engines.images.sketch import SketchEngine, generate
from minitoolai.engines.marks.image import detect, embed
from minitoolai.engines.protocols import ImageRequest

SIDES = (1024, 512, 256)
THINGS = ("a red apple", "a cat", "a house", "the moon", "a tree", "a car", "a fish", "a crown", "a rocket", "a cake")
#: Clip n says two of them. They were written after the watermark was finished, so it is not tuned to them.
SENTENCES = (
    "The ferry to the island leaves at half past seven, unless the wind turns.",
    "My grandmother kept her recipes in a tin box under the kitchen window.",
    "Please hold the line; one of our colleagues will be with you shortly.",
    "Nobody expected the youngest of the three brothers to run the bakery.",
    "Water boils at a lower temperature when you climb a mountain.",
    "The museum opens on Sundays, but the tower stays closed until spring.",
    "She wrote the whole program on the train between two small towns.",
    "Turn left at the fountain and follow the narrow street down to the harbour.",
    "If the lamp blinks twice, press the blue button and wait for a minute.",
    "They painted the fence green because the shop had run out of white.",
    "An old clock in the hall strikes thirteen whenever it feels like it.",
    "The committee will vote on the new bridge before the end of the month.",
    "He whistles the same tune each morning while he waters the tomatoes.",
    "Our flight was late, so we spent the evening with cards and cold tea.",
    "Every library has one shelf that the visitors never seem to find.",
    "The recipe asks for two eggs, a cup of flour and a lot of patience.",
    "Fresh snow makes a city quieter than any law against noise.",
    "You can change your password in the settings, under the word security.",
    "A fox crossed the motorway and looked back at us from the other side.",
    "The choir rehearses in a garage that smells of oil and oranges.",
    "Yesterday the market sold more umbrellas than apples.",
    "Her first invention was a spoon that sings when the soup is too hot.",
    "The doctor asked me to breathe in, breathe out, and stop worrying.",
    "Somewhere beyond the hills a dog was barking at the thunder.",
    "The last page of the letter was missing, so we made up the ending.",
)


#: Photographs of people, animals, things, streets, textures, tissue and sky.
PHOTOGRAPHS = {
    "skimage": [
        f"data/{name}"
        for name in (
            "astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "grass.png",
            "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png", "retina.jpg",
            "rocket.jpg",
        )
    ],
    "sklearn": ["datasets/images/china.jpg", "datasets/images/flower.jpg"],
}  # fmt: skip


def photographs() -> list[Path]:
    """Return the files of the photographs. The packages are not imported, so they need none of their dependencies."""
    files = []
    for package, names in PHOTOGRAPHS.items():
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            sys.exit(f"{package} is missing: install requirements-marks.txt as the head of this file says")
        files += [Path(spec.submodule_search_locations[0]) / name for name in names]
    return files


def part_of_photograph(number: int, side: int) -> Any:
    """Return a square of one of the photographs, enlarged if it is smaller."""
    files = photographs()
    whole = Image.open(files[number % len(files)]).convert("RGB")
    scale = max(1.0, side / min(whole.size))
    whole = whole.resize((round(whole.width * scale), round(whole.height * scale)), Image.Resampling.LANCZOS)
    rng = np.random.default_rng(number)
    left, top = int(rng.integers(0, whole.width - side + 1)), int(rng.integers(0, whole.height - side + 1))
    return np.asarray(whole.crop((left, top, left + side, top + side)))


def image(number: int, engine: list[SketchEngine]) -> tuple[str, Any]:
    """Return the kind and the pixels of one image."""
    side = SIDES[number // 4 % 3]
    if number % 2 == 0:
        engine[:] = engine or [SketchEngine()]
        request = ImageRequest(prompt=THINGS[number // 2 % 10], steps=2, width=side, height=side, seed=number)
        return "embedded model", np.asarray(Image.open(io.BytesIO(generate(engine[0], request).png)).convert("RGB"))
    if number % 4 == 1:
        return "photograph", part_of_photograph(number // 4, side)
    if number % 8 == 3:
        return "synthetic photograph", photograph(number, side)
    return "drawing", drawing(number, side)


def measure(first: int, last: int) -> None:
    """Print a line of JSON per image."""
    engine: list[SketchEngine] = []
    for number in range(first, last):
        kind, pixels = image(number, engine)
        mark = CODEC.watermark(number, CREATED_MS + number * 977)
        began_s = time.process_time()
        marked = embed(pixels, mark)
        embed_ms = (time.process_time() - began_s) * 1000
        found = {}
        for name, attack in ATTACKS.items():
            marks = detect(luminance(attack(Image.fromarray(marked))), CODEC.signal_keys())
            found[name] = any(each.code == mark.code for each in marks)
        facts = {"kind": kind, "side": pixels.shape[0], "psnr": psnr(marked, pixels), "ms": embed_ms, "found": found}
        print(json.dumps(facts), flush=True)


def crops(first: int, last: int) -> None:
    """Print a line of JSON for each crop of an unmarked image: whether a code was read or anything was seen."""
    for number in range(first, last):
        rng = np.random.default_rng(number)
        make = (part_of_photograph, photograph, drawing)[number % 3]
        whole = make(100_000 + number // 4, 512)
        side = int(rng.integers(128, 257))
        top, left = (int(value) for value in rng.integers(0, 512 - side, 2))
        marks = detect(luminance(Image.fromarray(whole[top : top + side, left : left + side])), CODEC.signal_keys())
        read = [m for m in marks if m.code is not None and m.key and CODEC.read(m.code, m.key)]
        seen = [m for m in marks if m.sync >= CLEAR_SYNC or m in read]
        print(json.dumps({"crop": side, "seen": len(seen), "read": len(read)}), flush=True)


def speech(first: int, last: int) -> None:
    """Print a line of JSON for each clip of the embedded voice against all attacks, and for the clip unmarked."""
    from pesq import pesq
    from tests.engines.marks.test_speech import ATTACKS as SOUNDS

    from minitoolai.engines.marks.speech import SpeechWatermarker, detect_speech
    from minitoolai.engines.speech.encoding import AudioEncoder
    from minitoolai.engines.speech.messages import VoiceFile
    from minitoolai.engines.speech.voices import make_synthesizer

    voice = make_synthesizer("hibari", [VoiceFile("heart", "")], 0)
    mark, keys = CODEC.speech_watermark(CREATED_MS), CODEC.signal_keys()
    for number in range(first, last):
        text = " ".join(SENTENCES[(number * step + number // 25 * 7) % 25] for step in (1, 2))
        began_s = time.process_time()
        samples = voice.speak("heart", text, 1.0)
        middle_s = time.process_time()
        watermarker = SpeechWatermarker(mark)
        marked = np.concatenate([watermarker.process(samples), watermarker.finish()])
        marking_s = time.process_time() - middle_s
        encoder = AudioEncoder("mp3")
        encoder.encode(marked)
        encoder.finish()
        whole_s = time.process_time() - began_s
        share, share_of_mp3 = marking_s / (middle_s - began_s), marking_s / (whole_s - marking_s)
        found = {}
        for name, attack in SOUNDS.items():
            seen = detect_speech(attack(marked).astype(np.float32), keys)
            found[name] = seen is not None and seen.day == mark.day
        clean = detect_speech((samples / 32768).astype(np.float32), keys) is None
        quality = pesq(16_000, _at_16_khz(samples), _at_16_khz(marked), "wb")
        facts = {
            "seconds": len(samples) / 24_000, "share": share, "share_of_mp3": share_of_mp3, "pesq": quality,
            "speech": found, "clean": clean,
        }  # fmt: skip
        print(json.dumps(facts), flush=True)


def _at_16_khz(samples: Any) -> Any:
    """Return samples at 24 kHz resampled to 16 kHz, without anything above 8 kHz."""
    samples = samples[: len(samples) // 3 * 3]
    length = len(samples) * 2 // 3
    resampled = np.fft.irfft(np.fft.rfft(samples)[: length // 2 + 1], length) * (2 / 3)
    return np.clip(np.rint(resampled), -32768, 32767).astype(np.int16)


def table(path: Path) -> None:
    """Print the table and the figures."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    images = [row for row in rows if "found" in row]
    sides = sorted({row["side"] for row in images})
    print("| attack | all | " + " | ".join(f"{side}²" for side in sides) + " |")
    print("|---|" + "---|" * (len(sides) + 1))
    for name in ATTACKS:
        hits: dict[Any, list[bool]] = defaultdict(list)
        for row in images:
            hits["all"].append(row["found"][name])
            hits[row["side"]].append(row["found"][name])
        print(f"| {name} | " + " | ".join(f"{np.mean(hits[key]):.1%}" for key in ("all", *sides)) + " |")
    kinds = sorted({row["kind"] for row in images})
    for kind in kinds:
        of_kind = [row for row in images if row["kind"] == kind]
        missed = {name: sum(not row["found"][name] for row in of_kind) for name in ATTACKS}
        print(f"{len(of_kind)} of kind {kind}; not read: {missed}")
    levels = [row["psnr"] for row in images]
    print(f"{len(images)} images; PSNR {min(levels):.1f} to {max(levels):.1f} dB")
    for side in sides:
        print(f"{side}: median {np.median([row['ms'] for row in images if row['side'] == side]):.1f} ms to embed")
    unmarked = [row for row in rows if "crop" in row]
    read, seen = sum(row["read"] for row in unmarked), sum(row["seen"] for row in unmarked)
    print(f"{len(unmarked)} unmarked crops: {read} read, {seen} seen")

    clips = [row for row in rows if "speech" in row]
    if clips:
        hits = {name: np.mean([row["speech"][name] for row in clips]) for name in clips[0]["speech"]}
        print(f"{len(clips)} clips of speech: " + ", ".join(f"{name} {share:.0%}" for name, share in hits.items()))
        length, cost, mp3 = (np.median([row[name] for row in clips]) for name in ("seconds", "share", "share_of_mp3"))
        clean = sum(row["clean"] for row in clips)
        print(f"median {length:.1f} s, {cost:.1%} of the synthesis, {mp3:.1%} of it with mp3")
        print(f"{clean} unmarked clips without a mark")
        quality = [row["pesq"] for row in clips]
        print(f"PESQ {min(quality):.2f} to {max(quality):.2f}, median {np.median(quality):.2f}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["measure", first, last]:
            measure(int(first), int(last))
        case ["crops", first, last]:
            crops(int(first), int(last))
        case ["speech", first, last]:
            speech(int(first), int(last))
        case ["table", name]:
            table(Path(name))
        case _:
            sys.exit(__doc__)
