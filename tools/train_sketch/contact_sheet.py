"""Step 6: what the shipped engine draws: every sampler in a row of its own, four prompts across, to look at.

usage: contact_sheet.py OUT.png [--steps 4] [--cfg 2]. Also names the samplers whose pictures are the same.
"""

import argparse
import io
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from minitoolai.engines.images.sketch import SketchEngine
from minitoolai.engines.protocols import ImageRequest
from minitoolai.engines.sampling import SCHEDULERS

PROMPTS = ("red apple, 3d style", "happy kitty", "a rocket, noto style", "slice of pizza, flat style")
PICTURE_PX, LABEL_PX, SIDE_BY_SIDE = 256, 22, 2


def drawn(engine: SketchEngine, steps: int, cfg: float) -> dict[str, list[np.ndarray]]:
    """The pictures of each scheduler, one for every prompt, with the same seeds throughout."""
    batch, asked = engine.open(), {}
    for name in SCHEDULERS:
        for seed, prompt in enumerate(PROMPTS):
            size = {"width": PICTURE_PX, "height": PICTURE_PX}
            request = ImageRequest(prompt=prompt, scheduler=name, steps=steps, cfg_scale=cfg, seed=seed, **size)
            asked[batch.add(request)] = name
    pictures: dict[int, np.ndarray] = {}
    while len(batch):
        for image in batch.step():
            pictures[image.slot_id] = np.asarray(Image.open(io.BytesIO(image.png)))
    return {name: [pictures[t] for t in sorted(asked) if asked[t] == name] for name in SCHEDULERS}


def sheet_of(rows: dict[str, list[np.ndarray]]) -> Image.Image:
    width, height = PICTURE_PX * len(PROMPTS) + 16, PICTURE_PX + LABEL_PX
    down = -(-len(rows) // SIDE_BY_SIDE)
    sheet = Image.new("RGB", (width * SIDE_BY_SIDE, height * down), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (name, pictures) in enumerate(rows.items()):
        left, top = width * (i // down), height * (i % down)
        pen.text((left + 8, top + 4), name, fill="black")
        for j, picture in enumerate(pictures):
            sheet.paste(Image.fromarray(picture), (left + 8 + j * PICTURE_PX, top + LABEL_PX))
    return sheet


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("out", type=Path)
    words.add_argument("--steps", type=int, default=4)
    words.add_argument("--cfg", type=float, default=2.0)
    plan = words.parse_args()
    rows = drawn(SketchEngine(), plan.steps, plan.cfg)
    sheet_of(rows).save(plan.out, optimize=True)
    gaps = {
        (a, b): max(np.abs(x.astype(int) - y).max() for x, y in zip(rows[a], rows[b], strict=True))
        for a, b in combinations(rows, 2)
    }
    (first, second), gap = min(gaps.items(), key=lambda item: item[1])
    print(f"{len(gaps)} pairs of samplers; the most alike are {first} and {second}: up to {gap} of 255 apart")
    print("identical:", [pair for pair, gap in gaps.items() if gap == 0] or "none")


if __name__ == "__main__":
    main()
