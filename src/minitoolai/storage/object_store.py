"""Where pictures lie: a folder of this machine. storage/bucket.py is the same in S3.

A key is `<SHA-256 of the bytes>-<job>`: what it names never changes, a repeated put is harmless, and nobody shares an
object, so that deleting one cannot take another's away.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import threading
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

from minitoolai.core.errors import ObjectMissing, SettingsError, StoreError
from minitoolai.settings import Settings

KEY = re.compile(r"([0-9a-f]{64})-([0-9]{1,19})")


class ObjectStore(Protocol):
    """Pictures by key. Every method raises StoreError where the store is full, gone or broken."""

    async def put(self, job_id: int, png: bytes) -> str:
        """Keep a picture; its key, once it is durable."""

    async def get(self, key: str) -> bytes:
        """The picture; ObjectMissing where there is none."""

    async def delete(self, key: str) -> None:
        """Forget a picture. One that is not there is no error."""

    def list_older(self, before_ms: int) -> AsyncIterator[str]:
        """The keys of everything last put before this moment."""


def object_key(job_id: int, png: bytes) -> str:
    """The key under which a job's picture lies."""
    return f"{hashlib.sha256(png).hexdigest()}-{job_id}"


def path_of(key: str) -> str:
    """`ab/ab….png`: 256 folders, so that none grows too long. ValueError for what is no key."""
    if KEY.fullmatch(key) is None:
        raise ValueError(f"{key[:100]!r} is no key of an object")
    return f"{key[:2]}/{key}.png"


def key_at(path: str) -> str | None:
    """The key of the object at this path; None where something else lies there."""
    name = path.rpartition("/")[2].removesuffix(".png")
    return name if KEY.fullmatch(name) and path.endswith(path_of(name)) else None


def job_of(key: str) -> int:
    """The job that the object belongs to."""
    return int(key.partition("-")[2])


def digest_of(key: str) -> str:
    """The SHA-256 of the object's bytes, in hexadecimal."""
    return key.partition("-")[0]


class LocalObjects:
    """Files in one folder, written whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def put(self, job_id: int, png: bytes) -> str:
        key = object_key(job_id, png)
        await asyncio.to_thread(self._write, self._folder / path_of(key), png)
        return key

    async def get(self, key: str) -> bytes:
        try:
            return await asyncio.to_thread((self._folder / path_of(key)).read_bytes)
        except FileNotFoundError as error:
            raise ObjectMissing(f"there is no object {key}") from error
        except OSError as error:
            raise StoreError(f"cannot read {error.filename}: {error.strerror}") from error

    async def delete(self, key: str) -> None:
        try:
            await asyncio.to_thread((self._folder / path_of(key)).unlink, missing_ok=True)
        except OSError as error:
            raise StoreError(f"cannot delete {error.filename}: {error.strerror}") from error

    async def list_older(self, before_ms: int) -> AsyncIterator[str]:
        for folder in await asyncio.to_thread(self._folders):
            for key in await asyncio.to_thread(self._older_in, folder, before_ms):
                yield key

    def _write(self, path: Path, png: bytes) -> None:
        """Write beside, make it durable, then give it its name: a reader sees all of it or nothing."""
        # Its own for each thread: two attempts at one job may end in the same moment.
        beside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with beside.open("wb") as file:
                    file.write(png)
                    file.flush()
                    os.fsync(file.fileno())
                beside.replace(path)
            except BaseException:
                beside.unlink(missing_ok=True)
                raise
            _sync_folder(path.parent)
        except OSError as error:
            raise StoreError(f"cannot write to {self._folder}: {error.strerror}") from error

    def _folders(self) -> list[Path]:
        try:
            return sorted(path for path in self._folder.iterdir() if path.is_dir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"cannot list {self._folder}: {error.strerror}") from error

    def _older_in(self, folder: Path, before_ms: int) -> list[str]:
        found = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.stat().st_mtime_ns // 1_000_000 < before_ms:
                        found.append(entry.name)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"cannot list {folder}: {error.strerror}") from error
        for name in found:
            # What a killed process left half written.
            if name.startswith(".") and name.endswith(".new"):
                (folder / name).unlink(missing_ok=True)
        return [key for name in found if (key := key_at(f"{folder.name}/{name}"))]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# (merged from bucket) Where pictures lie when several machines draw: a bucket of S3 or of anything that speaks it, by obstore.

#: A store that is gone is told of within this time, retries and all.
GIVE_UP_S = 20


class BucketObjects:
    """Objects under `prefix` of a bucket; laid out as the local folder is."""

    def __init__(
        self,
        url: str,
        *,
        endpoint: str = "",
        region: str = "",
        access_key_id: str = "",
        secret_access_key: str = "",
        give_up_s: float = GIVE_UP_S,
    ) -> None:
        """`url` is s3://bucket or s3://bucket/prefix. SettingsError where it is not.

        Without keys, obstore asks the machine for its own role.
        """
        scheme, _, rest = url.partition("://")
        bucket, _, prefix = rest.partition("/")
        if scheme != "s3" or not bucket:
            raise SettingsError(f"MINITOOLAI_OBJECT_STORE={url!r} is wrong: write s3://bucket or s3://bucket/prefix")
        from obstore.exceptions import BaseError
        from obstore.store import S3Store

        given: dict[str, Any] = {
            "region": region or "us-east-1",
            "endpoint": endpoint,
            "access_key_id": access_key_id,
            "secret_access_key": secret_access_key,
        }
        try:
            self._store = S3Store(
                bucket,
                prefix=prefix.strip("/") or None,
                client_options={
                    "allow_http": endpoint.startswith("http://"),
                    "connect_timeout": timedelta(seconds=min(5, give_up_s)),
                    "timeout": timedelta(seconds=give_up_s),
                },
                retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=give_up_s)},
                **{name: value for name, value in given.items() if value},
            )
        except BaseError as error:
            raise SettingsError(f"MINITOOLAI_OBJECT_STORE={url!r}: {_words(error)}") from error
        self._url = url

    async def put(self, job_id: int, png: bytes) -> str:
        import obstore

        key = object_key(job_id, png)
        with _Border(f"cannot write to {self._url}"):
            await obstore.put_async(self._store, path_of(key), png, attributes={"Content-Type": "image/png"})
        return key

    async def get(self, key: str) -> bytes:
        import obstore

        with _Border(f"cannot read from {self._url}"):
            answer = await obstore.get_async(self._store, path_of(key))
            return bytes(await answer.bytes_async())

    async def delete(self, key: str) -> None:
        import obstore

        try:
            with _Border(f"cannot delete from {self._url}"):
                await obstore.delete_async(self._store, path_of(key))
        except ObjectMissing:
            return

    async def list_older(self, before_ms: int) -> AsyncIterator[str]:
        import obstore

        with _Border(f"cannot list {self._url}"):
            async for page in obstore.list(self._store, chunk_size=500):
                for meta in page:
                    key = key_at(meta["path"])
                    if key and KEY.fullmatch(key) and meta["last_modified"].timestamp() * 1000 < before_ms:
                        yield key


class _Border:
    """Foreign exceptions become ours here, and nowhere else."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is None:
            return
        from obstore.exceptions import BaseError, NotFoundError

        if isinstance(error, NotFoundError | FileNotFoundError) and "NoSuchBucket" not in str(error):
            raise ObjectMissing(f"{self._what}: there is no such object") from error
        if isinstance(error, BaseError | OSError):
            raise StoreError(f"{self._what}: {_words(error)}") from error


def _words(error: BaseException) -> str:
    """The first line: obstore adds its whole state to a message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def build_object_store(settings: Settings) -> ObjectStore:
    """Return the store named in the settings: a folder, or a bucket. Raises SettingsError."""
    if not settings.object_store:
        return LocalObjects(settings.data_dir / "objects")
    return BucketObjects(
        settings.object_store,
        endpoint=settings.s3_endpoint,
        region=settings.s3_region,
        access_key_id=settings.s3_access_key_id,
        secret_access_key=settings.s3_secret_access_key,
    )
