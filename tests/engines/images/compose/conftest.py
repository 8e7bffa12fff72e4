"""Load the embedded model once for all tests of composed images."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from minitoolai.engines.images.sketch import SketchEngine


@pytest.fixture(scope="package")
def engine() -> Iterator[SketchEngine]:
    loaded = SketchEngine()
    loaded.start()
    yield loaded
    loaded.stop()
