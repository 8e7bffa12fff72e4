"""What a web UI has: checkpoints, samplers and, since AUTOMATIC1111 1.9 and in Forge, schedulers of their own.

Before, `DPM++ 2M Karras` was one sampler; since, it is the sampler `DPM++ 2M` on the scheduler `Karras`.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from minitoolai.core.errors import EngineError, EngineRefused

#: The web UI's names of schedules. Left to itself ("Automatic") it would take Karras for half of the samplers.
DISCRETE, KARRAS, TRAILING = "Uniform", "Karras", "SGM Uniform"
_OUT_OF_MEMORY = re.compile("out ?of ?memory", re.IGNORECASE)


class _Checkpoint(msgspec.Struct):
    title: str
    model_name: str = ""
    filename: str = ""


class _Named(msgspec.Struct):
    name: str
    label: str = ""
    aliases: list[str] | None = None


class WebuiFacts(msgspec.Struct, frozen=True):
    """`titles`: by lower-case name without ending. `schedulers` is empty where samplers have joined names."""

    titles: dict[str, str]
    samplers: frozenset[str]
    schedulers: frozenset[str]

    @staticmethod
    def of(checkpoints: Any, samplers: Any, schedulers: Any, engine: str) -> WebuiFacts:
        """From its three lists. EngineError where they are something else."""
        try:
            known = msgspec.convert(checkpoints, list[_Checkpoint])
            methods = msgspec.convert(samplers, list[_Named])
            plans = msgspec.convert(schedulers, list[_Named])
        except msgspec.ValidationError as error:
            raise EngineError(f"{engine} is no web UI as we know it: {error}") from None
        titles: dict[str, str] = {}
        for one in known:
            for name in (re.split(r"[/\\]", one.filename)[-1], one.model_name, one.title, one.title.split(" [")[0]):
                titles.setdefault(bare(name), one.title)
        names = frozenset(label for plan in plans for label in (plan.name, plan.label) if label)
        return WebuiFacts(titles, frozenset(method.name for method in methods), names)

    def checkpoint(self, weights: str) -> str | None:
        """Its title for a file's name, with or without ending and hash, or None where it has no such file."""
        return self.titles.get(bare(re.split(r"[/\\]", weights)[-1]))

    def sampler(self, scheduler: str, *, trailing: bool, engine: str) -> dict[str, str]:
        """The fields that mean one of our eighteen names there. EngineRefused where it has no such sampler."""
        method = scheduler.removesuffix(" Karras")
        if not self.schedulers:
            fields = {"sampler_name": scheduler}
        elif method == "DPM fast":
            fields = {"sampler_name": method, "scheduler": "Automatic"}
        else:
            plain = TRAILING if trailing and TRAILING in self.schedulers else DISCRETE
            fields = {"sampler_name": method, "scheduler": KARRAS if method != scheduler else plain}
        if fields["sampler_name"] not in self.samplers:
            raise EngineRefused(f"{engine} has no sampler {fields['sampler_name']!r}", param="scheduler")
        return fields


def bare(name: str) -> str:
    """A file's name as people write it: without ending, in lower case."""
    return re.sub(r"\.(safetensors|ckpt|gguf)$", "", name.strip().lower())


def failure_of(status: int, raw: bytes, engine: str) -> EngineError:
    """A web UI's refusal as ours. It says what is wrong with a request in `detail`, and out of memory in `errors`."""
    try:
        said = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        said = {}
    detail = said.get("detail") if isinstance(said, dict) else None
    text = detail if isinstance(detail, str) else str(detail or "")
    if _OUT_OF_MEMORY.search(raw.decode("utf-8", "replace")):
        return EngineError(f"{engine} is out of memory")
    if status in (400, 422) or (status == 404 and "sampler" in text.lower()):
        return EngineRefused(f"{engine}: {text[:300] or 'the request was refused'}")
    if status == 404:
        return EngineError(f"{engine} does not know this path: start it with --api")
    return EngineError(f"{engine} failed with status {status}")
