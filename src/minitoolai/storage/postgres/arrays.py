"""Columns of a batch as PostgreSQL takes them over the wire: arrays in their binary form, packed by `struct`.

The driver's own dumpers ask every element for its type; here the column has one, and a batch costs a tenth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, repeat
from struct import Struct, pack
from typing import Any

_HEAD = Struct("!iiIii")
_LENGTH = Struct("!i")
_NULL = _LENGTH.pack(-1)


def _whole_numbers(column: Sequence[Any], size: int, code: str) -> bytes:
    if None not in column:
        lengths_and_values = chain.from_iterable(zip(repeat(size), column, strict=False))
        return pack(f"!{('i' + code) * len(column)}", *lengths_and_values)
    one = Struct(f"!i{code}")
    return b"".join(_NULL if value is None else one.pack(size, value) for value in column)


def _int8(column: Sequence[Any]) -> bytes:
    return _whole_numbers(column, 8, "q")


def _int4(column: Sequence[Any]) -> bytes:
    return _whole_numbers(column, 4, "i")


def _bytea(column: Sequence[Any]) -> bytes:
    return b"".join(_NULL if value is None else _LENGTH.pack(len(value)) + value for value in column)


def _text(column: Sequence[Any]) -> bytes:
    # Most columns of text say the same in many rows: a model, a state, a key.
    packed = {value: _bytea((value if value is None else value.encode(),)) for value in set(column)}
    return b"".join(map(packed.__getitem__, column))


#: Type → the number of its array's type, of its own, and how its elements are packed.
_KINDS: dict[str, tuple[int, int, Callable[[Sequence[Any]], bytes]]] = {
    "bigint": (1016, 20, _int8),
    "integer": (1007, 23, _int4),
    "text": (1009, 25, _text),
    "bytea": (1001, 17, _bytea),
}


def is_known(kind: str) -> bool:
    """Whether columns of this type, as PostgreSQL spells it, can be packed."""
    return kind in _KINDS


def array_type(kind: str) -> int:
    """The number under which PostgreSQL knows arrays of this type."""
    return _KINDS[kind][0]


def packed(kind: str, column: Sequence[Any]) -> bytes:
    """The values of one column, which are not none; each fits its type or is None."""
    _, element, pack_all = _KINDS[kind]
    return _HEAD.pack(1, 1, element, len(column), 1) + pack_all(column)
