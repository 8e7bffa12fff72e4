"""Both object stores keep the same promises; each test runs on a folder and on a real S3 server."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import resource
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from minitoolai.core.errors import ObjectMissing, SettingsError, StoreError
from minitoolai.storage.object_store import (
    LocalObjectStore,
    ObjectStore,
    S3ObjectStore,
    digest_of,
    job_of,
    key_at,
    path_of,
)
from tests.support.buckets import REGION, S3Server

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40
LATER_MS = 32_503_680_000_000
_numbers = itertools.count(1)
Ask = Callable[[Coroutine[Any, Any, Any]], Any]
ask: Ask = asyncio.run


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


def bucket(s3: S3Server, name: str, **more: Any) -> S3ObjectStore:
    url = name if "://" in name else f"s3://{name}/some/prefix"
    return S3ObjectStore(
        url, endpoint=s3.endpoint, region=REGION, access_key_id="test", secret_access_key="test", **more
    )


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "folder":
        return LocalObjectStore(tmp_path / "objects")
    server: S3Server = request.getfixturevalue("s3")
    name = f"pictures-{next(_numbers)}"
    server.make_bucket(name)
    return bucket(server, name)


async def listed(keys: AsyncIterator[str]) -> list[str]:
    return sorted([key async for key in keys])


def test_what_was_put_is_there_to_the_last_byte_under_its_digest_and_job(store: ObjectStore) -> None:
    key = ask(store.put(41, PNG))
    assert (digest_of(key), job_of(key)) == (hashlib.sha256(PNG).hexdigest(), 41)
    assert ask(store.get(key)) == PNG


def test_files_of_archived_days_are_kept_apart_from_images(store: ObjectStore) -> None:
    path = f"archive/2026-01-31/000001-{'a' * 64}.jsonl.gz"
    with pytest.raises(ObjectMissing):
        ask(store.get_file(path))
    for data in (b"", PNG, PNG):
        ask(store.put_file(path, data))
        assert ask(store.get_file(path)) == data
    key = ask(store.put(41, PNG))
    assert ask(listed(store.list_older(LATER_MS))) == [key]
    for wrong in ("archive/../x/y.gz", "/archive/2026-01-31/a.gz", "archive/2026-01-31/../../a.gz", "a.png", ""):
        with pytest.raises(ValueError, match="not the path of a file"):
            ask(store.put_file(wrong, PNG))
        with pytest.raises(ValueError, match="not the path of a file"):
            ask(store.get_file(wrong))


def test_a_repeated_put_is_harmless(store: ObjectStore) -> None:
    assert ask(store.put(41, PNG)) == ask(store.put(41, PNG))
    assert ask(listed(store.list_older(LATER_MS))) == [ask(store.put(41, PNG))]


def test_the_same_picture_of_two_jobs_is_two_objects(store: ObjectStore) -> None:
    mine, yours = ask(store.put(1, PNG)), ask(store.put(2, PNG))
    ask(store.delete(mine))
    assert ask(store.get(yours)) == PNG
    with pytest.raises(ObjectMissing):
        ask(store.get(mine))


def test_deleting_what_is_not_there_is_no_error(store: ObjectStore) -> None:
    key = ask(store.put(1, PNG))
    ask(store.delete(key))
    ask(store.delete(key))


def test_only_what_is_old_enough_is_listed_and_an_empty_store_lists_nothing(store: ObjectStore) -> None:
    assert ask(listed(store.list_older(LATER_MS))) == []
    keys = sorted(ask(store.put(job, PNG)) for job in range(5))
    assert ask(listed(store.list_older(LATER_MS))) == keys
    assert ask(listed(store.list_older(int(time.time() * 1000) - 3_600_000))) == []


def test_what_is_no_key_never_becomes_a_path(store: ObjectStore) -> None:
    for wrong in ("../../etc/passwd", "", "a" * 64, f"{'a' * 64}-1/../x", f"{'A' * 64}-1"):
        with pytest.raises(ValueError, match="not the key of an object"):
            ask(store.get(wrong))


def test_many_at_once_do_not_disturb_each_other(store: ObjectStore) -> None:
    async def all_of_them() -> list[bytes]:
        keys = await asyncio.gather(*(store.put(job % 7, PNG + bytes([job % 7])) for job in range(40)))
        return list(await asyncio.gather(*(store.get(key) for key in keys)))

    assert ask(all_of_them()) == [PNG + bytes([job % 7]) for job in range(40)]


# ── a folder ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_folder_that_cannot_be_written_is_a_store_error_that_names_it(tmp_path: Path) -> None:
    blocked = tmp_path / "objects"
    blocked.write_text("a file, where a folder should be")
    with pytest.raises(StoreError, match=str(blocked)):
        ask(LocalObjectStore(blocked).put(1, PNG))


def test_a_disk_that_is_full_leaves_nothing_half_written_and_takes_more_once_it_is_not(tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path)
    kept = ask(store.put(1, PNG))
    # The kernel's own refusal to let a file grow stands for a full disk.
    soft, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(PNG) // 2, most))
    try:
        with pytest.raises(StoreError, match=str(tmp_path)):
            ask(store.put(2, PNG + b"more"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, most))
        signal.signal(signal.SIGXFSZ, previous)
    assert [path.name for path in tmp_path.rglob("*.*")] == [f"{kept}.png"]
    assert ask(store.get(ask(store.put(2, PNG + b"more")))) == PNG + b"more"


def test_what_a_killed_process_left_half_written_is_no_object_and_goes(tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path)
    key = ask(store.put(1, PNG))
    half = tmp_path / key[:2] / f".{key}.png.4711.new"
    half.write_bytes(PNG[:100])
    foreign = tmp_path / key[:2] / "README.txt"
    foreign.write_text("not ours")
    assert ask(listed(store.list_older(LATER_MS))) == [key]
    assert not half.exists()
    assert foreign.exists()


def test_a_put_again_makes_an_object_young_again(tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path)
    key = ask(store.put(1, PNG))
    os.utime(tmp_path / path_of(key), (0, 0))
    assert ask(listed(store.list_older(1_000_000))) == [key]
    ask(store.put(1, PNG))
    assert ask(listed(store.list_older(1_000_000))) == []


def test_a_path_leads_back_to_its_key() -> None:
    key = f"{'ab' * 32}-77"
    assert key_at(path_of(key)) == key_at(f"some/prefix/{path_of(key)}") == key
    assert key_at(f"cd/{key}.png") is None


# ── a bucket ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_bucket_that_does_not_exist_is_a_store_error_and_not_a_missing_picture(s3: S3Server) -> None:
    store = bucket(s3, "nowhere-at-all")
    with pytest.raises(StoreError, match="nowhere-at-all") as failure:
        ask(store.put(1, PNG))
    assert not isinstance(failure.value, ObjectMissing)
    with pytest.raises(StoreError) as failure:
        ask(store.get(f"{'ab' * 32}-77"))
    assert not isinstance(failure.value, ObjectMissing)


def test_a_bucket_out_of_reach_is_told_of_in_time() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        store = S3ObjectStore(
            "s3://b",
            endpoint=f"http://127.0.0.1:{taken.getsockname()[1]}",
            access_key_id="x",
            secret_access_key="x",
            timeout_s=1.0,
        )
        began_s = time.monotonic()
        with pytest.raises(StoreError, match="s3://b"):
            ask(store.put(1, PNG))
    assert time.monotonic() - began_s < 30


def test_two_prefixes_of_one_bucket_do_not_see_each_other(s3: S3Server) -> None:
    s3.make_bucket("shared")
    one, two = bucket(s3, "s3://shared/one"), bucket(s3, "s3://shared/two/")
    key = ask(one.put(1, PNG))
    assert ask(listed(two.list_older(LATER_MS))) == []
    with pytest.raises(ObjectMissing):
        ask(two.get(key))


@pytest.mark.parametrize("url", ["s3://", "gs://bucket", "bucket", "https://bucket.s3.amazonaws.com"])
def test_an_address_that_is_no_bucket_is_refused_with_what_to_write(url: str) -> None:
    with pytest.raises(SettingsError, match="s3://bucket/prefix"):
        S3ObjectStore(url)
