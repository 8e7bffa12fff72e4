"""Tests of the sizes of the embedded model: slots and context by memory, read from the header of its file."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from minitoolai.core.catalog.catalog import EngineEntry
from minitoolai.core.errors import EngineError
from minitoolai.engines.chat.llama.engine import LlamaEngine
from minitoolai.engines.chat.llama.memory import ModelShape, Sizes, read_shape, size_model
from minitoolai.engines.fetching import fetchable_models
from minitoolai.engines.memory import Memory
from minitoolai.httpclient.client import HttpClient
from tests.support.small_model import small_model_file

SMALL = ModelShape(98_362_432, 23_040, 8192)
LARGE = ModelShape(1_117_320_768, 28_672, 32_768)
GB = 1_000_000_000


def sizes(shape: ModelShape | None, usable: int, *, slots: int = 0, context: int = 4096, fixed: bool = False) -> Sizes:
    most = 500_000_000 if shape is SMALL else None
    return size_model(shape, slots=slots, context=context, is_fixed=fixed, most=most, usable=usable)


def test_the_shape_is_read_from_the_header() -> None:
    assert read_shape(small_model_file()) == SMALL


def test_a_vision_projector_counts_as_weights(tmp_path: Path) -> None:
    (tmp_path / "mmproj.gguf").write_bytes(bytes(1000))
    shape = read_shape(small_model_file(), str(tmp_path / "mmproj.gguf"))
    assert shape is not None
    assert shape.weights == SMALL.weights + 1000


def test_a_damaged_header_has_no_shape(tmp_path: Path) -> None:
    path, whole = tmp_path / "m.gguf", small_model_file().read_bytes()[:4096]
    chance = random.Random(1)
    for _ in range(300):
        data = bytearray(whole[: chance.randrange(len(whole))])
        for _ in range(chance.randrange(20) if data else 0):
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(data)
        shape = read_shape(path)
        assert shape is None or shape.weights == len(data)
    assert read_shape(tmp_path / "missing") is None


def test_slots_and_then_the_context_follow_from_the_memory() -> None:
    fitting = [sizes(LARGE, int(usable * GB)) for usable in (8, 1.75, 1.6, 1.5, 1.4)]
    assert [(one.slots, one.context) for one in fitting] == [(slots, 4096) for slots in (4, 4, 2, 2, 1)]
    tight = sizes(LARGE, int(1.3 * GB))
    assert (tight.slots, tight.context) == (1, 1024)
    # The small one keeps below half a gigabyte, whatever there is.
    assert (sizes(SMALL, 8 * GB).slots, sizes(SMALL, 8 * GB).memory < GB // 2) == (3, True)


def test_what_the_operator_has_set_is_kept() -> None:
    assert (sizes(SMALL, 0, slots=7).slots, sizes(SMALL, 0, slots=7).context) == (7, 4096)
    assert sizes(SMALL, 0, context=8192, fixed=True).context == 8192
    # A model has no more than it was trained with.
    assert sizes(SMALL, GB, context=10_000, fixed=True).context == 8192
    assert sizes(None, 0) == Sizes(4, 4096, 0)


def large_file(folder: Path) -> Path:
    """A file with the size of the large model and a header that can be read. It takes no space on the disk."""
    path = folder / fetchable_models()["qwen2.5-coder-1.5b"].file
    path.write_bytes(small_model_file().read_bytes()[:1_000_000])
    with path.open("r+b") as file:
        file.truncate(LARGE.weights)
    return path


def engine(folder: Path, memory: Memory) -> LlamaEngine:
    entry = EngineEntry("llama", model="large", fetched="qwen2.5-coder-1.5b", context=4096)
    model = fetchable_models()["qwen2.5-coder-1.5b"]
    return LlamaEngine("qwen", entry, HttpClient(), fetched=(model, folder), memory=lambda: memory)


def test_a_small_machine_does_not_take_the_large_model(tmp_path: Path) -> None:
    large_file(tmp_path)
    why = engine(tmp_path, Memory(2 * GB, 2 * GB)).why_not_ready()
    assert why is not None
    assert why.startswith("Qwen2.5-Coder-1.5B-Instruct (Q4_K_M) and the server need 2.3 GB of memory")
    assert why.endswith("this machine has 2.0 GB")
    assert engine(tmp_path, Memory(3 * GB, 3 * GB)).why_not_ready() is None


def test_a_machine_whose_memory_is_taken_names_what_is_free(tmp_path: Path) -> None:
    large_file(tmp_path)
    busy = engine(tmp_path, Memory(16 * GB, GB))
    with pytest.raises(EngineError, match=r"GB of memory, but 0\.7 GB are free"):
        asyncio.run(busy.start())
    assert "0.7 GB are free" in str(busy.why_not_ready())
