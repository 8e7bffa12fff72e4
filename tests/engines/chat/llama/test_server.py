"""Tests of the parameters that the llama.cpp child passes on, with stand-ins for xllamacpp's types."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from minitoolai.engines.chat.llama.server import server_parameters

SETTINGS: dict[str, Any] = {
    "path": "/m.gguf",
    "model": "served",
    "key": "secret",
    "slots": 2,
    "queue": 5,
    "context": 512,
    "threads": 0,
    "embeds": False,
    "pooling": "",
}


class CommonParams(SimpleNamespace):
    def __init__(self) -> None:
        super().__init__(model=SimpleNamespace(), mmproj=SimpleNamespace())
        self.cpuparams, self.cpuparams_batch = SimpleNamespace(), SimpleNamespace()


def parameters(**settings: Any) -> Any:
    library = SimpleNamespace(
        CommonParams=CommonParams,
        llama_load_mode=SimpleNamespace(LLAMA_LOAD_MODE_NONE="read"),
        llama_pooling_type=SimpleNamespace(LLAMA_POOLING_TYPE_MEAN="mean pooling"),
    )
    return server_parameters(library, SETTINGS | settings)


def test_the_server_listens_on_loopback_with_a_key_and_a_context_per_slot() -> None:
    made = parameters()
    assert (made.hostnames, made.port, made.api_keys) == (["127.0.0.1"], 0, ["secret"])
    assert (made.model.path, made.model_alias) == ("/m.gguf", {"served"})
    assert (made.n_parallel, made.n_ctx) == (2, 1024)
    # A mapped file would take memory beside the repacked weights.
    assert made.load_mode == "read"
    # One thread for each request at work or in the queue, and a reserve.
    assert made.n_threads_http == 15
    assert not hasattr(made, "embedding")
    assert not hasattr(made.mmproj, "path")


def test_threads_are_left_to_llama_cpp_unless_set() -> None:
    assert not hasattr(parameters().cpuparams, "n_threads")
    made = parameters(threads=3)
    assert (made.cpuparams.n_threads, made.cpuparams_batch.n_threads) == (3, 3)


def test_an_embedding_model_reads_a_whole_context_in_one_batch() -> None:
    made = parameters(embeds=True, pooling="mean")
    assert (made.embedding, made.n_batch, made.n_ubatch) == (True, 512, 512)
    assert made.pooling_type == "mean pooling"
    assert not hasattr(parameters(embeds=True), "pooling_type")


def test_a_vision_projector_is_passed_on() -> None:
    assert parameters(mmproj="/eyes.gguf").mmproj.path == "/eyes.gguf"


def test_an_unknown_pooling_is_an_error() -> None:
    with pytest.raises(AttributeError):
        parameters(embeds=True, pooling="median")
