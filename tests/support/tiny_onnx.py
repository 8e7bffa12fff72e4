"""ONNX models of a few nodes, written by hand: the format is a protobuf, of which they need little."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

FLOAT, FLOAT16, UINT8 = 1, 10, 2
#: Names and numbers of fields of onnx.proto.
_INT, _STRING, _INTS = 2, 3, 7


def _varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def _field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def node(kind: str, inputs: Sequence[str], output: str, **attributes: int | str | Sequence[int]) -> bytes:
    """Return a NodeProto."""
    data = b"".join(_field(1, name) for name in inputs) + _field(2, output) + _field(4, kind)
    for name, value in attributes.items():
        if isinstance(value, int):
            own = _field(3, value) + _field(20, _INT)
        elif isinstance(value, str):
            own = _field(4, value) + _field(20, _STRING)
        else:
            own = b"".join(_field(8, one) for one in value) + _field(20, _INTS)
        data += _field(5, _field(1, name) + own)
    return data


def _value(name: str, shape: Sequence[int | str], kind: int) -> bytes:
    dims = b"".join(_field(1, _field(1 if isinstance(side, int) else 2, side)) for side in shape)
    return _field(1, name) + _field(2, _field(1, _field(1, kind) + _field(2, dims)))


def save_model(
    path: Path, nodes: Sequence[bytes], *, shape: Sequence[int | str] = (1, 3, "h", "w"), kind: int = FLOAT
) -> Path:
    """Write a model with the input `x` and the output `y`."""
    graph = b"".join(_field(1, one) for one in nodes) + _field(2, "g")
    graph += _field(11, _value("x", shape, kind)) + _field(12, _value("y", (1, "c", "p", "q"), kind))
    path.write_bytes(_field(1, 8) + _field(7, graph) + _field(8, _field(1, "") + _field(2, 13)))
    return path


def doubling(smooth: bool = False) -> list[bytes]:
    """Return nodes that make each pixel two by two; `smooth` averages it with its neighbours before."""
    first = [node("AveragePool", ["x"], "s", kernel_shape=[3, 3], pads=[1, 1, 1, 1])] if smooth else []
    source = "s" if smooth else "x"
    return [
        *first,
        node("Concat", [source] * 4, "four", axis=1),
        node("DepthToSpace", ["four"], "y", blocksize=2),
    ]
