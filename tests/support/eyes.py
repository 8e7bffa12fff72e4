"""The eyes of a model, small and of random weights, in the form that llama.cpp reads: a GGUF file made on the spot.

One layer over patches of 8 pixels; a projector as LLaVA has it, as wide as the embedded model's own vectors. It
tells nothing of a picture, and counts it exactly.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

#: What one picture counts: a token for each patch.
TOKENS = 16
_PATCH, _WIDTH, _INNER, _HEADS = 8, 32, 64, 2
_SIDE = _PATCH * int(TOKENS**0.5)
#: How wide SmolLM2-135M is.
_MODEL_WIDTH = 576
_ALIGNMENT = 32
_UINT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 6, 7, 8, 9


def write_eyes(path: Path, *, width: int = _MODEL_WIDTH) -> Path:
    """The same file each time. `width` is that of the model that is to see."""
    facts = {
        "general.architecture": "clip",
        "general.alignment": _ALIGNMENT,
        "clip.has_vision_encoder": True,
        "clip.projector_type": "mlp",
        "clip.use_gelu": True,
        "clip.vision.image_size": _SIDE,
        "clip.vision.patch_size": _PATCH,
        "clip.vision.embedding_length": _WIDTH,
        "clip.vision.feed_forward_length": _INNER,
        "clip.vision.projection_dim": width,
        # The last layer is never used: a projector of this kind looks at the one before.
        "clip.vision.block_count": 2,
        "clip.vision.attention.head_count": _HEADS,
        "clip.vision.attention.layer_norm_epsilon": 1e-5,
        "clip.vision.image_mean": [0.5, 0.5, 0.5],
        "clip.vision.image_std": [0.5, 0.5, 0.5],
    }
    tensors = _tensors(width)
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(facts))
    head += b"".join(_text(key) + _typed(value) for key, value in facts.items())
    at, body = 0, b""
    for name, tensor in tensors.items():
        # The fastest dimension comes first; 0 stands for 32-bit floats.
        head += _text(name) + struct.pack(f"<I{tensor.ndim}QIQ", tensor.ndim, *reversed(tensor.shape), 0, at)
        body += _padded(tensor.tobytes())
        at = len(body)
    path.write_bytes(_padded(head) + body)
    return path


def _tensors(width: int) -> dict[str, Any]:
    random = np.random.default_rng(7)

    def noise(*shape: int) -> Any:
        return random.normal(0, 0.05, shape).astype("<f4")

    def pair(name: str, rows: int, columns: int) -> dict[str, Any]:
        return {f"{name}.weight": noise(rows, columns), f"{name}.bias": noise(rows)}

    def norm(name: str) -> dict[str, Any]:
        return {f"{name}.weight": noise(_WIDTH) + np.float32(1), f"{name}.bias": noise(_WIDTH)}

    found = {
        "v.patch_embd.weight": noise(_WIDTH, 3, _PATCH, _PATCH),
        "v.position_embd.weight": noise(TOKENS, _WIDTH),
        **norm("v.pre_ln"),
    }
    for layer in range(2):
        block = f"v.blk.{layer}"
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            found |= pair(f"{block}.{name}", _WIDTH, _WIDTH)
        found |= norm(f"{block}.ln1") | norm(f"{block}.ln2")
        found |= pair(f"{block}.ffn_up", _INNER, _WIDTH) | pair(f"{block}.ffn_down", _WIDTH, _INNER)
    return found | pair("mm.0", width, _WIDTH) | pair("mm.2", width, width)


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _typed(value: str | bool | int | float | list[float]) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _text(value)
    if isinstance(value, list):
        return struct.pack(f"<IIQ{len(value)}f", _ARRAY, _FLOAT32, len(value), *value)
    if isinstance(value, bool):
        return struct.pack("<I?", _BOOL, value)
    return struct.pack("<II", _UINT32, value) if isinstance(value, int) else struct.pack("<If", _FLOAT32, value)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % _ALIGNMENT)
