"""Size the embedded chat model: how many slots, with what context, fit into the memory of this machine.

The keys and values of every token of every slot are reserved when the model is loaded. Their size follows from the
header of the GGUF file. The other parts of the estimate were measured: see docs/howto/models.md.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import msgspec

#: Most slots that are chosen automatically, and the least context.
MAX_SLOTS, MIN_CONTEXT = 4, 1024
#: Free memory that a model leaves.
SPARE_BYTES = 300_000_000
#: Memory of the child beside weights, keys and values: Python and llama.cpp, then buffers by the size of the weights.
_BASE_BYTES, _BUFFER_SHARE = 70_000_000, 0.06
#: Bytes of a key or a value.
_F16 = 2


class ModelShape(msgspec.Struct, frozen=True):
    """The sizes of a model that determine its memory: bytes of its weights, and of the keys and values of a token."""

    weights: int
    bytes_per_token: int
    #: The context that the model was trained with. 0 if unknown.
    trained_context: int = 0

    def memory(self, slots: int, context: int) -> int:
        """Return about how many bytes of memory the child takes."""
        fixed = self.weights + _BASE_BYTES + int(self.weights * _BUFFER_SHARE)
        return fixed + slots * context * self.bytes_per_token


class Sizes(msgspec.Struct, frozen=True):
    """The slots of a model, the context of each, and about how many bytes of memory they take (0 if unknown)."""

    slots: int
    context: int
    memory: int

    def describe(self) -> str:
        """Return it as text, for the log and `minitoolai models`."""
        slots = "1 slot" if self.slots == 1 else f"{self.slots} slots"
        memory = f", about {self.memory / 1e9:.1f} GB of memory" if self.memory else ""
        return f"{slots} with a context of {self.context} tokens{memory}"


def size_model(
    shape: ModelShape | None, *, slots: int, context: int, is_fixed: bool, most: int | None, usable: int
) -> Sizes:
    """Return as many slots as fit into `usable` bytes; if not even one fits, with a shorter context.

    `slots`: a number that the operator has set, or 0. `is_fixed`: the operator has set the context. `most`: bytes that
    are not exceeded even if there is more memory.
    Without a shape, nothing is fitted.
    """
    if shape is None:
        return Sizes(slots or MAX_SLOTS, context, 0)
    if shape.trained_context:
        context = min(context, shape.trained_context)
    if slots:
        return Sizes(slots, context, shape.memory(slots, context))
    budget, slots = usable if most is None else min(most, usable), MAX_SLOTS
    while slots > 1 and shape.memory(slots, context) > budget:
        slots -= 1
    while not is_fixed and context // 2 >= MIN_CONTEXT and shape.memory(slots, context) > usable:
        context //= 2
    return Sizes(slots, context, shape.memory(slots, context))


# ── the header of a GGUF file ─────────────────────────────────────────────────────────────────────────────────

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MAX_KEYS, _MAX_ITEMS, _MAX_TEXT = 10_000, 10_000_000, 100_000_000


def read_shape(path: Path, mmproj: str = "") -> ModelShape | None:
    """Return the shape of the model in a GGUF file, or None if the file is not one or does not tell.

    `mmproj`: the file of the vision projector, which is loaded as well.
    """
    try:
        with path.open("rb") as file:
            fields = _read_header(file)
        more = Path(mmproj).stat().st_size if mmproj and Path(mmproj).is_file() else 0
        return _shape(fields, path.stat().st_size + more)
    except (OSError, struct.error, ValueError, KeyError, TypeError, ZeroDivisionError):
        return None


def _shape(fields: dict[str, Any], weights: int) -> ModelShape:
    kind = fields["general.architecture"]

    def field(name: str, default: int | None = None) -> Any:
        value = fields.get(f"{kind}.{name}", default)
        if value is None:
            raise KeyError(name)
        return value

    layers, heads = int(field("block_count")), field("attention.head_count")
    # A model may have another number of heads in each layer.
    most_heads = max(heads) if isinstance(heads, list) else int(heads)
    shared = field("attention.head_count_kv", most_heads)
    per_layer = [int(count) for count in shared] if isinstance(shared, list) else [int(shared)] * layers
    size = int(field("embedding_length")) // most_heads
    sizes = int(field("attention.key_length", size)) + int(field("attention.value_length", size))
    return ModelShape(weights, sum(per_layer) * sizes * _F16, int(field("context_length", 0)))


def _read_header(file: IO[bytes]) -> dict[str, Any]:
    """Return the header's fields with a number, a text or a list of numbers."""
    if file.read(4) != b"GGUF" or _scalar(file, "I") < 2:
        raise ValueError("not a GGUF file")
    _scalar(file, "Q")
    fields: dict[str, Any] = {}
    for _ in range(_checked(_scalar(file, "Q"), _MAX_KEYS)):
        name = _text(file).decode(errors="replace")
        if name.startswith("tokenizer.") and f"{fields.get('general.architecture')}.embedding_length" in fields:
            # The sizes come first, and the vocabulary would take a quarter of a second to read.
            break
        value = _value(file, _scalar(file, "I"))
        fields[name] = value.decode(errors="replace") if isinstance(value, bytes) else value
    return fields


def _value(file: IO[bytes], kind: int) -> Any:
    if kind == _STRING:
        return _text(file)
    if kind != _ARRAY:
        return _scalar(file, _SCALARS[kind])
    kind, count = _scalar(file, "I"), _checked(_scalar(file, "Q"), _MAX_ITEMS)
    if kind == _STRING:
        for _ in range(count):
            file.seek(_checked(_scalar(file, "Q"), _MAX_TEXT), 1)
        return None
    code = f"<{count}{_SCALARS[kind]}"
    return list(struct.unpack(code, file.read(struct.calcsize(code))))


def _scalar(file: IO[bytes], code: str, calcsize: Callable[[str], int] = struct.calcsize) -> Any:
    return struct.unpack(f"<{code}", file.read(calcsize(code)))[0]


def _text(file: IO[bytes]) -> bytes:
    return file.read(_checked(_scalar(file, "Q"), _MAX_TEXT))


def _checked(count: int, most: int) -> int:
    """Return a count from the file. Raise ValueError if no model has so many: the file is damaged."""
    if count > most:
        raise ValueError("not a GGUF file")
    return count
