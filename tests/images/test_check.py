"""Checks of files: whose mark, damaged and foreign ones, and files that are no images."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from minitoolai.cli.mark import describe
from minitoolai.core.clock import generation_name
from minitoolai.core.marks import MarkCodec
from minitoolai.core.signing import SecretKeys
from minitoolai.engines.marks.image import embed
from minitoolai.images.certificates import certificate_digest
from minitoolai.images.check import CheckReport, MarkChecker
from minitoolai.images.marks import build_marks
from minitoolai.settings import Settings
from tests.support.marks import ATTACKS, photograph

RING = SecretKeys(b"k" * 32)
JOB, CREATED_MS, MODEL = 4711, 1_790_000_123_456, "painter-1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("check")


@pytest.fixture(scope="module")
def signed(folder: Path) -> bytes:
    """Return a marked image with a manifest, as a server delivers it."""
    marks = build_marks(Settings(data_dir=folder), RING)
    assert marks is not None
    pixels = embed(photograph(1, 512), marks.codec.watermark(JOB, CREATED_MS))
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return marks.sign(file.getvalue(), JOB, CREATED_MS, MODEL)


def check(folder: Path, data: bytes, ring: SecretKeys = RING) -> CheckReport:
    async def find(second: int) -> list[tuple[int, str, str, str | None, int]]:
        rows = [(JOB, "image", "asked", MODEL, CREATED_MS), (JOB + 1, "image", "asked", "other", CREATED_MS)]
        return rows if second == CREATED_MS // 1000 else []

    path = folder / "file"
    path.write_bytes(data)
    checker = MarkChecker(MarkCodec(ring), find, lambda: certificate_digest(Settings(data_dir=folder)))
    return asyncio.run(checker.check(path))


def reencoded(data: bytes, attack: str = "JPEG 70", **options: Any) -> bytes:
    file = io.BytesIO()
    ATTACKS[attack](Image.open(io.BytesIO(data)).convert("RGB")).save(file, "PNG", **options)
    return file.getvalue()


def test_a_file_as_delivered_is_ours_by_both_marks(folder: Path, signed: bytes) -> None:
    report = check(folder, signed)
    assert [(m.owner, m.created_ms, m.model, m.generation) for m in report.marks] == [
        ("ours", CREATED_MS, MODEL, generation_name(JOB))
    ]
    assert report.manifest is not None
    assert (report.manifest.state, report.is_manifest_ours, report.is_ours) == ("valid", True, True)
    text = "\n".join(describe(report))
    assert MODEL in text
    assert "2026-09-21 14:15:23 UTC" in text


def test_a_screenshot_that_was_cropped_is_ours_by_the_watermark(folder: Path, signed: bytes) -> None:
    report = check(folder, reencoded(signed, "screenshot (crop, 83 %, JPEG 80)"))
    assert report.manifest is None
    assert [mark.generation for mark in report.marks] == [generation_name(JOB)]


def test_after_a_rotation_of_the_secret_old_marks_stay_readable(folder: Path, signed: bytes) -> None:
    report = check(folder, signed, SecretKeys(b"n" * 32, [b"k" * 32]))
    assert [mark.owner for mark in report.marks] == ["ours"]


def test_another_operators_mark_is_told(folder: Path, signed: bytes) -> None:
    report = check(folder, reencoded(signed), SecretKeys(b"x" * 32))
    assert [mark.owner for mark in report.marks] == ["foreign"]
    assert not report.is_ours
    assert "another MiniToolAI installation" in describe(report)[0]


def test_a_forged_or_truncated_manifest_is_told(folder: Path, signed: bytes) -> None:
    forged = signed.replace(b"painter-1", b"painter-2")
    # The chunk's own checksum fits, so only the signature tells.
    at = forged.index(b"caBX")
    length = int.from_bytes(forged[at - 4 : at], "big")
    import zlib

    end = at + 4 + length
    forged = forged[:end] + zlib.crc32(forged[at:end]).to_bytes(4, "big") + forged[end + 4 :]
    report = check(folder, forged)
    assert report.manifest is not None
    assert report.manifest.state == "forged"
    assert "FORGED" in "\n".join(describe(report))
    cut = check(folder, signed[: end - 100])
    assert cut.manifest is not None
    assert (cut.manifest.state, cut.fault) == ("truncated", "not_an_image")


def test_a_file_without_marks_says_that_this_proves_nothing(folder: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(photograph(9, 256)).save(file, "JPEG")
    report = check(folder, file.getvalue())
    assert (report.marks, report.manifest, report.fault) == ([], None, "")
    assert "does not prove" in describe(report)[0]


@pytest.mark.parametrize("data", [b"", b"hello", b"%PDF-1.7", b"\x89PNG\r\n\x1a\n" + bytes(100), b"GIF89a"])
def test_a_file_that_is_no_image_is_told(folder: Path, data: bytes) -> None:
    assert check(folder, data).fault == "not_an_image"


def test_an_image_of_too_many_pixels_is_not_decoded(folder: Path) -> None:
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG")
    assert check(folder, file.getvalue()).fault == "too_large"
