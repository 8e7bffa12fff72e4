"""Images wait on disk while the object store is away, and an outage is over when none waits."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from pathlib import Path

import pytest

from minitoolai.images.unstored import KEEP_S, MAX_BYTES, StoreOutage, UnstoredImage, UnstoredImages


def test_an_image_is_found_until_it_is_forgotten(tmp_path: Path) -> None:
    async def run() -> None:
        kept = UnstoredImages(tmp_path / "unstored")
        assert await kept.find(1) is None
        assert await kept.keep(1, "painter", b"png")
        # Another process with the same folder finds it.
        other = UnstoredImages(tmp_path / "unstored")
        assert await other.find(1) == UnstoredImage("painter", b"png")
        assert await other.find(2) is None
        await other.forget(1)
        await other.forget(1)
        assert await kept.find(1) is None

    asyncio.run(run())
    assert (tmp_path / "unstored").stat().st_mode & 0o077 == 0


def test_a_file_that_was_cut_short_is_as_good_as_none(tmp_path: Path) -> None:
    async def run() -> UnstoredImage | None:
        kept = UnstoredImages(tmp_path)
        await kept.keep(1, "painter", b"png" * 100)
        path = tmp_path / "1.image"
        path.write_bytes(path.read_bytes()[:-1])
        return await kept.find(1)

    assert asyncio.run(run()) is None


def test_old_images_are_deleted_and_too_many_wait_in_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, age_s, size in (("1.image", KEEP_S + 60, 10), ("2.image", KEEP_S - 60, MAX_BYTES)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
        at_s = time.time() - age_s
        os.utime(tmp_path / name, (at_s, at_s))
    with caplog.at_level(logging.WARNING):
        assert not asyncio.run(UnstoredImages(tmp_path).keep(3, "painter", b"x"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2.image"]
    assert "waits in memory" in caplog.text
    (tmp_path / "2.image").unlink()
    assert asyncio.run(UnstoredImages(tmp_path).keep(3, "painter", b"x"))


def test_an_outage_lasts_until_the_last_waiting_job_has_ended(caplog: pytest.LogCaptureFixture) -> None:
    outage = StoreOutage()
    with caplog.at_level(logging.WARNING), outage.watched(1) as first:
        assert not outage.is_on
        first.failed()
        with outage.watched(2) as second:
            second.failed()
            second.failed()
        assert outage.is_on
    assert not outage.is_on
    # Reported once, not for each job and try.
    assert caplog.text.count("the object store is away") == 1
