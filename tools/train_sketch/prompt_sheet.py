"""Step 9: draw lists of prompts as the engine does, to look at, and judge the drawn things by the model's own encoder.

usage: prompt_sheet.py OUT_FOLDER [LIST ...], where LIST is one of prompts/*.txt. Writes LIST.png for each, every image
with its prompt below, and prints the share of things that the encoder recognizes: the latents of what was drawn are
nearest to those of the thing that was asked for, among all that the model draws in this style from another seed.
"""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from tools.train_sketch.score_prompts import LISTS, cases

from minitoolai.engines.images.compose.picture import things_of
from minitoolai.engines.images.sketch import SketchEngine, SketchModel
from minitoolai.engines.protocols import ImageRequest
from minitoolai.engines.sampling.noise import SeededNoise

SIDE, LABEL_PX, ACROSS = 160, 26, 10
#: One step from noise gives the impression of a thing, which is enough to compare with.
_SIGMA, _ROWS = 14.6, 64
STYLES = ("noto style", "flat style", "3d style", "twemoji style")


def references(model: SketchModel) -> tuple[np.ndarray, list[str]]:
    """Return the latents of every thing in each of its styles, and their names."""
    named = [(name, style) for name in model.words.names for style in model.words.styles.get(name, STYLES)]
    noise = SeededNoise(1, (4, 16, 16)).start()
    found = []
    for i in range(0, len(named), _ROWS):
        rows: Any = [(noise, _SIGMA, model.captions.embed_name(*one)) for one in named[i : i + _ROWS]]
        found.append(model.denoise(rows).reshape(len(rows), -1))
    return np.concatenate(found), [name for name, _ in named]


def drawn(engine: SketchEngine, prompts: list[str]) -> tuple[list[Image.Image], list[list[np.ndarray]]]:
    """Return the image of each prompt at the API's defaults, and the decoded latents of its things."""
    images, latents = [], []
    for seed, prompt in enumerate(prompts):
        batch = engine.open()
        batch.add(ImageRequest(prompt=prompt, model="sketch", seed=seed, width=512, height=512))
        finished: Any = {}
        while not finished:
            finished = batch._advance([])
        ((things, image),) = finished.values()
        latents.append(things)
        images.append(Image.open(io.BytesIO(batch._png(things, image))).convert("RGB"))
    return images, latents


def sheet_of(images: list[Image.Image], labels: list[str]) -> Image.Image:
    """Return the images in rows, each with its label."""
    down = -(-len(images) // ACROSS)
    sheet = Image.new("RGB", (ACROSS * SIDE, down * (SIDE + LABEL_PX)), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        left, top = i % ACROSS * SIDE, i // ACROSS * (SIDE + LABEL_PX)
        sheet.paste(image.resize((SIDE - 4, SIDE - 4)), (left, top))
        pen.text((left + 2, top + SIDE - 3), f"{label[:26]}\n{label[26:52]}", fill="black", font_size=11)
    return sheet


def main() -> None:
    out = Path(sys.argv[1])
    out.mkdir(exist_ok=True, parents=True)
    engine = SketchEngine()
    engine.start()
    model = engine._model
    assert model is not None
    known, names = references(model)
    for path in [LISTS / f"{name}.txt" for name in sys.argv[2:]] or sorted(LISTS.glob("*.txt")):
        prompts = [prompt for prompt, _ in cases(path)]
        images, latents = drawn(engine, prompts)
        sheet_of(images, prompts).save(out / f"{path.stem}.png", optimize=True)
        right = total = 0
        missed = []
        for prompt, squares in zip(prompts, latents, strict=True):
            for thing, square in zip(things_of(model.reader.read(prompt)), squares, strict=False):
                # As an image that was uploaded: decoded, then encoded again.
                pixels = model.decode([square])[0]
                again = model.encode((pixels.transpose(2, 0, 1) / 127.5 - 1).astype(np.float32)).reshape(-1)
                nearest = names[int(np.argmin(((known - again) ** 2).sum(axis=1)))]
                total += 1
                right += nearest == thing.name
                if nearest != thing.name:
                    missed.append(f"{thing.name} ({nearest})")
        print(f"{path.stem}: {len(prompts)} prompts, {right} of {total} things recognized; not: {', '.join(missed)}")


if __name__ == "__main__":
    main()
