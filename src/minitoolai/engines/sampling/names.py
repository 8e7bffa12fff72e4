"""Find a scheduler by its name as people write it: in any case, with hyphens, or as other programs call it."""

from __future__ import annotations

import difflib
import re

from minitoolai.engines.sampling.schedules import SCHEDULERS

_KEEP = re.compile(r"[^a-z0-9+]")

#: Names in k-diffusion and ComfyUI, in InvokeAI and the Stability API, and diffusers' classes.
_ALIASES = {
    "Euler a": (
        "euler_ancestral",
        "k_euler_a",
        "k_euler_ancestral",
        "EulerAncestralDiscreteScheduler",
        "euler ancestral",
    ),
    "Euler": ("k_euler", "EulerDiscreteScheduler", "euler discrete"),
    "LMS": ("k_lms", "LMSDiscreteScheduler"),
    "Heun": ("k_heun", "HeunDiscreteScheduler"),
    "DPM2": ("dpm_2", "k_dpm_2", "KDPM2DiscreteScheduler", "dpm 2"),
    "DPM2 a": (
        "dpm_2_ancestral",
        "k_dpm_2_a",
        "k_dpm_2_ancestral",
        "KDPM2AncestralDiscreteScheduler",
        "dpm2 ancestral",
    ),
    "DPM++ 2S a": ("dpmpp_2s_ancestral", "k_dpmpp_2s_a", "k_dpmpp_2s_ancestral", "dpm++ 2s ancestral", "dpm++ 2s"),
    "DPM++ 2M": ("dpmpp_2m", "k_dpmpp_2m", "DPMSolverMultistepScheduler", "dpmsolver++"),
    "DPM++ SDE": ("dpmpp_sde", "k_dpmpp_sde", "DPMSolverSDEScheduler"),
    "DPM++ 2M SDE": ("dpmpp_2m_sde", "k_dpmpp_2m_sde"),
    "DPM fast": ("dpm_fast", "k_dpm_fast"),
}


def _key(name: str) -> str:
    """Return a name without case, blanks and punctuation; `pp` is how file names write `++`."""
    return _KEEP.sub("", name.lower().replace("dpmpp", "dpm++"))


def _known() -> dict[str, str]:
    known = {_key(name): name for name in SCHEDULERS}
    for name, aliases in _ALIASES.items():
        for alias in aliases:
            known.setdefault(_key(alias), name)
            if f"{name} Karras" in SCHEDULERS:
                known.setdefault(_key(f"{alias} karras"), f"{name} Karras")
    return known


_BY_KEY = _known()


def scheduler_named(name: str) -> str | None:
    """Return the scheduler that a caller means, or None."""
    return name if name in SCHEDULERS else _BY_KEY.get(_key(name[:80]))


def nearest_schedulers(name: str) -> str:
    """Return `did you mean A, B?` for an unknown name, or the list of all."""
    close = difflib.get_close_matches(_key(name[:80]), _BY_KEY, n=6, cutoff=0.5)
    nearest = list(dict.fromkeys(_BY_KEY[key] for key in close))[:3]
    if nearest:
        return f"did you mean {' or '.join(nearest)}?"
    return f"available are {', '.join(SCHEDULERS)}"
