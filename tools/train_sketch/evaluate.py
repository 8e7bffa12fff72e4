"""Step 5: fidelity of what the engine ships: is the nearest training picture of the asked thing?

usage: evaluate.py WORK [--show]. Nearest in latent space. 300 names drawn with a fixed seed from the things
of the training set, each in one style; then 60 paraphrases written by hand. Chance is below 0.001.
"""

import json
import random
import sys
import time
from pathlib import Path

import numpy as np
import torch
from paraphrases import PARAPHRASES
from prepare import STYLES

from minitoolai.engines.images.sketch import SketchEngine
from minitoolai.engines.protocols import ImageRequest

NAMES = 300
SETTINGS = (("DPM++ 2M Karras", 8, 4.0), ("DPM++ SDE", 4, 2.0), ("DPM++ 2M Karras", 4, 2.0))


def names_asked(things: list[dict]) -> list[tuple[str, str]]:
    """(name, prompt) of 300 things, the same on every run."""
    names = sorted({thing["name"] for thing in things})
    random.Random(3).shuffle(names)
    dice, styles = random.Random(7), list(STYLES.values())
    return [(name, f"{name}, {dice.choice(styles)}") for name in names[:NAMES]]


def drawn(engine: SketchEngine, prompts: list[str], scheduler: str, steps: int, cfg: float) -> np.ndarray:
    """Latents (N, 1024) of each prompt, picture i with seed i."""
    latents = {}
    for first in range(0, len(prompts), 60):
        batch = engine.open()
        for i, prompt in enumerate(prompts[first : first + 60]):
            asked = ImageRequest(prompt=prompt, scheduler=scheduler, steps=steps, cfg_scale=cfg, seed=first + i)
            batch.add(asked)
        while len(batch):
            latents.update((request.seed, x) for x, request in batch.advance().values())
    return np.stack([latents[i] for i in range(len(prompts))]).reshape(len(prompts), -1)


def nearest(x: np.ndarray, training: np.ndarray, things: list[dict]) -> list[str]:
    distances = (training**2).sum(1)[None] - 2 * x @ training.T
    return [things[i]["name"] for i in distances.argmin(1)]


def main() -> None:
    work = Path(sys.argv[1])
    things = json.loads((work / "things.json").read_text())
    training = torch.load(work / "latents.pt")["latents"].flatten(1).double().numpy()
    engine = SketchEngine()
    engine.start()
    asked = names_asked(things)
    known = {thing["name"] for thing in things}
    unknown = {name for names in PARAPHRASES.values() for name in names} - known
    assert not unknown, f"paraphrases name things that were not trained on: {sorted(unknown)}"
    for scheduler, steps, cfg in SETTINGS:
        began = time.perf_counter()
        found = nearest(drawn(engine, [p for _, p in asked], scheduler, steps, cfg), training, things)
        spent_s = time.perf_counter() - began
        hits = sum(name == got for (name, _), got in zip(asked, found, strict=True))
        meant = nearest(drawn(engine, list(PARAPHRASES), scheduler, steps, cfg), training, things)
        understood = [got in names for names, got in zip(PARAPHRASES.values(), meant, strict=True)]
        print(
            f"{scheduler}, {steps} steps, cfg {cfg:g}: {hits / len(asked):.3f} of {len(asked)} names, "
            f"{sum(understood)} of {len(understood)} paraphrases, {spent_s / len(asked) * 1000:.0f} ms each"
        )
        if "--show" in sys.argv:
            missed = zip(PARAPHRASES, meant, understood, strict=True)
            print("  missed:", "; ".join(f"{ask} -> {got}" for ask, got, well in missed if not well))


if __name__ == "__main__":
    main()
