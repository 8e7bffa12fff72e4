"""Tests of manifests in PNG, JPEG and WebP files, with the reader of the C2PA project besides ours."""

from __future__ import annotations

import io
import json
from pathlib import Path

import c2pa
import pytest
from msgspec.structs import replace
from PIL import Image

from minitoolai.engines.images.codec import encode_png, to_format
from minitoolai.images.provenance.certificates import load_signer
from minitoolai.images.provenance.containers import find_store, kind_of, opened, wrapped, wrapped_bytes
from minitoolai.images.provenance.manifest import ManifestSigner, Provenance, add_manifest
from minitoolai.images.provenance.manifest_reader import read_manifest
from minitoolai.settings import Settings
from tests.support.pictures import picture

PROVENANCE = Provenance("sketch", "gen-00000000ABC", 1_790_000_000_000)
UNIQUE = "7ddde8aa-94c1-4fa6-b3aa-2be35d5afdc8"
FORMATS = ("png", "jpeg", "webp")


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> ManifestSigner:
    folder: Path = tmp_path_factory.mktemp("marks")
    return load_signer(Settings(data_dir=folder))


def image(kind: str) -> bytes:
    return to_format(encode_png(picture(), "a red apple\nSteps: 4"), kind, 90)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_carries_a_manifest_that_both_readers_accept(signer: ManifestSigner, kind: str) -> None:
    # One of two is of odd length.
    for title in ("sketch", "sketch1"):
        _check(add_manifest(image(kind), replace(PROVENANCE, model=title), signer, UNIQUE), kind, title)


def _check(signed: bytes, kind: str, model: str) -> None:
    assert kind_of(signed) == kind
    report = read_manifest(signed)
    assert report is not None
    assert (report.state, report.model, report.generation) == ("valid", model, "gen-00000000ABC")
    said = json.loads(c2pa.Reader(f"image/{kind}", io.BytesIO(signed)).json())
    codes = {status["code"] for status in said.get("validation_status", [])}
    # The certificate is self-made, so only its issuer is unknown.
    assert codes <= {"signingCredential.untrusted"}, codes
    pictures = [Image.open(io.BytesIO(data)) for data in (signed, image(kind))]
    assert pictures[0].tobytes() == pictures[1].tobytes()


@pytest.mark.parametrize("kind", FORMATS)
def test_a_changed_byte_in_any_format_is_noticed(signer: ManifestSigner, kind: str) -> None:
    signed = add_manifest(image(kind), PROVENANCE, signer, UNIQUE)
    found = find_store(signed)
    assert found is not None
    inside = range(found.start, found.start + found.length)
    for at in (*range(12, len(signed), 97), len(signed) - 1):
        # Labels within a manifest are not signed; only PNG has a checksum of them.
        if kind != "png" and at in inside:
            continue
        changed = bytearray(signed)
        changed[at] ^= 0x41
        report = read_manifest(bytes(changed))
        assert report is None or report.state in ("forged", "truncated"), at


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("size", [101, 64_999, 65_008, 65_009, 200_000])
def test_manifests_of_any_length_are_found(kind: str, size: int) -> None:
    store = size.to_bytes(4, "big") + b"jumb" + bytes(i % 251 for i in range(size - 8))
    file = opened(image(kind), size)
    whole = wrapped(kind, store)
    assert len(whole) == wrapped_bytes(kind, size)
    found = find_store(file.head + whole + file.tail)
    assert found is not None
    assert (found.start, found.length, found.store) == (len(file.head), len(whole), store)


def test_other_files_are_refused() -> None:
    with pytest.raises(ValueError, match="not a PNG, JPEG or WebP"):
        opened(b"GIF89a", 100)
    assert find_store(b"GIF89a") is None
