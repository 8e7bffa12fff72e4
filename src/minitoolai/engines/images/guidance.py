"""Classifier-free guidance for a small model: high scales at few steps would harden colours into blots.

Known remedies, on numpy arrays of one image: the scale saturates, guidance ends at low noise, and the result keeps the
contrast of the prediction without guidance. The input of the model is kept to the noise level that is passed with it,
because a sampler of high order overshoots in few steps. None of this changes a sampler.
"""

from __future__ import annotations

import math
from typing import Any

#: The scale of `cfgScale` approaches 1 + this: more guidance than that adds no likeness, only blots.
CEILING = 1.5
#: The same for schedulers that amplify guidance in few steps: they show blots where the others do not.
UNSTEADY = {
    "Heun": 0.8,
    "DPM2 a": 0.4,
    "DPM fast": 0.1,
    "DPM2 Karras": 0.7,
    "DPM2 a Karras": 0.15,
    "DPM++ 2M SDE": 1.0,
    "DPM++ 2M Karras": 0.8,
    "DPM++ 2M SDE Karras": 0.6,
}
#: Below this noise level the prediction needs no guidance (a guidance interval, arXiv 2404.07724).
LAST_SIGMA = 0.3
#: Share of the rescaled result, as in diffusers' `guidance_rescale` (arXiv 2305.08891, section 3.4).
RESCALE = 0.7
#: Clamp to the range of the prediction without guidance, widened by this share of it (dynamic thresholding of
#: arXiv 2205.11487, on latents).
HEADROOM = 0.1
#: A finished image may differ from the model's last prediction by this much. Only DPM fast, which ends above zero noise
#: with an extrapolation of third order, ever does.
LEEWAY = 0.05
#: The noise that the model sees is at most this many times the noise level passed with it.
MOST_NOISE = 1.15


def effective_scale(scale: float, scheduler: str = "") -> float:
    """Return the scale to use for a `cfgScale` from 1: nearly the same up to 2, and never more than 1 + CEILING."""
    ceiling = UNSTEADY.get(scheduler, CEILING)
    return 1 + ceiling * (1 - math.exp(-(scale - 1) / ceiling))


def guided(positive: Any, negative: Any, scale: float, sigma: float, scheduler: str = "") -> Any:
    """Return x0, led away from the negative prompt by a `cfgScale`."""
    if sigma < LAST_SIGMA:
        return positive
    guess = negative + effective_scale(scale, scheduler) * (positive - negative)
    spread = guess.std()
    if spread > 0:
        guess = guess * (RESCALE * float(positive.std() / spread) + 1 - RESCALE)
    low, high = positive.min(), positive.max()
    room = (high - low) * HEADROOM
    return guess.clip(low - room, high + room)


def shown(x: Any, last_prediction: Any | None, sigma: float) -> Any:
    """Return what to show the model at a noise level: x, with its distance from the last prediction kept plausible."""
    if last_prediction is None:
        return x
    noise = x - last_prediction
    excess = math.sqrt(float((noise * noise).mean())) / (sigma * MOST_NOISE)
    return x if excess <= 1 else last_prediction + noise / excess


def settled(finished: Any, last_prediction: Any) -> Any:
    """Return the finished latents, not further from the model's last prediction than LEEWAY."""
    return finished.clip(last_prediction - LEEWAY, last_prediction + LEEWAY)
