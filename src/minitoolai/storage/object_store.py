"""Object store for images and archived days: a local folder, or a bucket of S3 or a compatible service.

The key of an image is `<SHA-256 of the bytes>-<job>`: an object never changes, a repeated put is harmless, and no two
jobs share an object, so deleting one cannot remove another job's image. Files of archived days have paths of their own.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

from minitoolai.core.errors import ObjectMissing, SettingsError, StoreError
from minitoolai.core.private_files import make_private_folder, private_opener
from minitoolai.core.threads import FILES
from minitoolai.settings import Settings

KEY = re.compile(r"([0-9a-f]{64})-([0-9]{1,19})")
#: Paths of other files than images: two folders and a name.
FILE = re.compile(r"[a-z]+/[0-9-]+/[0-9a-z-]+(\.[a-z]+)+")


class ObjectStore(Protocol):
    """Images by key, other files by path. Every method raises StoreError if the store is full, away or broken."""

    async def put(self, job_id: int, png: bytes) -> str:
        """Store an image and return its key, once it is durable."""

    async def get(self, key: str) -> bytes:
        """Return the image. Raise ObjectMissing if there is none."""

    async def delete(self, key: str) -> None:
        """Delete an image. A missing one is not an error."""

    def list_older(self, before_ms: int) -> AsyncIterator[str]:
        """Yield the keys of all objects last put before this time."""

    async def put_file(self, path: str, data: bytes) -> None:
        """Store a file that is no image. Return once it is durable."""

    async def get_file(self, path: str) -> bytes:
        """Return such a file. Raise ObjectMissing if there is none."""


def object_key(job_id: int, png: bytes) -> str:
    """Return the key of a job's image."""
    return f"{hashlib.sha256(png).hexdigest()}-{job_id}"


def path_of(key: str) -> str:
    """Return the path of a key, `ab/ab….png`: 256 folders, so that none gets large. Raise ValueError if invalid."""
    if KEY.fullmatch(key) is None:
        raise ValueError(f"{key[:100]!r} is not the key of an object")
    return f"{key[:2]}/{key}.png"


def _checked(path: str) -> str:
    if FILE.fullmatch(path) is None:
        raise ValueError(f"{path[:100]!r} is not the path of a file")
    return path


def key_at(path: str) -> str | None:
    """Return the key of the object at this path, or None if the path is not that of an object."""
    name = path.rpartition("/")[2].removesuffix(".png")
    return name if KEY.fullmatch(name) and path.endswith(path_of(name)) else None


def job_of(key: str) -> int:
    """Return the job that an object belongs to."""
    return int(key.partition("-")[2])


def digest_of(key: str) -> str:
    """Return the SHA-256 of an object's bytes, in hexadecimal."""
    return key.partition("-")[0]


class LocalObjectStore:
    """Object store in a local folder. Files are written atomically."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def put(self, job_id: int, png: bytes) -> str:
        key = object_key(job_id, png)
        await FILES.run(self._write, self._folder / path_of(key), png)
        return key

    async def get(self, key: str) -> bytes:
        return await self._read(path_of(key), key)

    async def put_file(self, path: str, data: bytes) -> None:
        await FILES.run(self._write, self._folder / _checked(path), data)

    async def get_file(self, path: str) -> bytes:
        return await self._read(_checked(path), path)

    async def _read(self, path: str, name: str) -> bytes:
        try:
            return await FILES.run((self._folder / path).read_bytes)
        except FileNotFoundError as error:
            raise ObjectMissing(f"there is no object {name}") from error
        except OSError as error:
            raise StoreError(f"cannot read {error.filename}: {error.strerror}") from error

    async def delete(self, key: str) -> None:
        try:
            await FILES.run((self._folder / path_of(key)).unlink, missing_ok=True)
        except OSError as error:
            raise StoreError(f"cannot delete {error.filename}: {error.strerror}") from error

    async def list_older(self, before_ms: int) -> AsyncIterator[str]:
        for folder in await FILES.run(self._folders):
            for key in await FILES.run(self._older_in, folder, before_ms):
                yield key

    def _write(self, path: Path, data: bytes) -> None:
        """Write to a temporary file, sync it, then rename it, so that a reader sees the whole file or nothing."""
        # Unique per thread: two attempts at one job may end at the same time.
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.new")
        try:
            folders = [path.parent, *path.parent.parents]
            folders = folders[: folders.index(self._folder) + 1]
            new = [folder.parent for folder in folders if not folder.is_dir()]
            for folder in reversed(folders):
                make_private_folder(folder)
            try:
                with open(temporary, "wb", opener=private_opener) as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            for folder in (path.parent, *new):
                _fsync_folder(folder)
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
        names = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.stat().st_mtime_ns // 1_000_000 < before_ms:
                        names.append(entry.name)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"cannot list {folder}: {error.strerror}") from error
        for name in names:
            # A temporary file that a killed process left behind.
            if name.startswith(".") and name.endswith(".new"):
                (folder / name).unlink(missing_ok=True)
        return [key for name in names if (key := key_at(f"{folder.name}/{name}"))]


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ── for metrics ───────────────────────────────────────────────────────────────────────────────────────────────────


class WatchedObjectStore:
    """Object store that counts failures and knows how long its operations have been waiting. Wraps another one."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        #: By operation. A missing object is not a failure.
        self.failures = dict.fromkeys(("put", "get", "delete", "list"), 0)
        self._started_s: dict[object, float] = {}

    def oldest_s(self) -> float:
        """Return the duration of the longest operation in progress, 0 if there is none."""
        return max((time.monotonic() - started_s for started_s in self._started_s.values()), default=0.0)

    async def put(self, job_id: int, png: bytes) -> str:
        with self._watch("put"):
            return await self._store.put(job_id, png)

    async def get(self, key: str) -> bytes:
        with self._watch("get"):
            return await self._store.get(key)

    async def delete(self, key: str) -> None:
        with self._watch("delete"):
            await self._store.delete(key)

    async def put_file(self, path: str, data: bytes) -> None:
        with self._watch("put"):
            await self._store.put_file(path, data)

    async def get_file(self, path: str) -> bytes:
        with self._watch("get"):
            return await self._store.get_file(path)

    async def list_older(self, before_ms: int) -> AsyncIterator[str]:
        # Not timed: the caller works between the pages.
        try:
            async for key in self._store.list_older(before_ms):
                yield key
        except StoreError:
            self.failures["list"] += 1
            raise

    @contextmanager
    def _watch(self, operation: str) -> Iterator[None]:
        token = object()
        self._started_s[token] = time.monotonic()
        try:
            yield
        except ObjectMissing:
            raise
        except StoreError:
            self.failures[operation] += 1
            raise
        finally:
            del self._started_s[token]


# ── S3 ────────────────────────────────────────────────────────────────────────────────────────────────────────────

#: An unavailable store is reported within this time, including retries.
REQUEST_TIMEOUT_S = 20


class S3ObjectStore:
    """Object store in a bucket of S3 or a compatible service (through obstore), with the layout of the local folder."""

    def __init__(
        self,
        url: str,
        *,
        endpoint: str = "",
        region: str = "",
        access_key_id: str = "",
        secret_access_key: str = "",
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> None:
        """Connect to `url`, s3://bucket or s3://bucket/prefix. Raise SettingsError for any other URL.

        Without an access key, obstore uses the role of the machine.
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
                    "connect_timeout": timedelta(seconds=min(5, timeout_s)),
                    "timeout": timedelta(seconds=timeout_s),
                },
                retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=timeout_s)},
                **{name: value for name, value in given.items() if value},
            )
        except BaseError as error:
            raise SettingsError(f"MINITOOLAI_OBJECT_STORE={url!r}: {_first_line(error)}") from error
        self._url = url

    async def put(self, job_id: int, png: bytes) -> str:
        import obstore

        key = object_key(job_id, png)
        with _TranslateErrors(f"cannot write to {self._url}"):
            await obstore.put_async(self._store, path_of(key), png, attributes={"Content-Type": "image/png"})
        return key

    async def get(self, key: str) -> bytes:
        return await self._read(path_of(key))

    async def put_file(self, path: str, data: bytes) -> None:
        import obstore

        with _TranslateErrors(f"cannot write to {self._url}"):
            await obstore.put_async(self._store, _checked(path), data)

    async def get_file(self, path: str) -> bytes:
        return await self._read(_checked(path))

    async def _read(self, path: str) -> bytes:
        import obstore

        with _TranslateErrors(f"cannot read from {self._url}"):
            response = await obstore.get_async(self._store, path)
            return bytes(await response.bytes_async())

    async def delete(self, key: str) -> None:
        import obstore

        try:
            with _TranslateErrors(f"cannot delete from {self._url}"):
                await obstore.delete_async(self._store, path_of(key))
        except ObjectMissing:
            return

    async def list_older(self, before_ms: int) -> AsyncIterator[str]:
        import obstore

        with _TranslateErrors(f"cannot list {self._url}"):
            async for page in obstore.list(self._store, chunk_size=500):
                for meta in page:
                    key = key_at(meta["path"])
                    if key and KEY.fullmatch(key) and meta["last_modified"].timestamp() * 1000 < before_ms:
                        yield key


class _TranslateErrors:
    """Context manager that turns exceptions of obstore into StoreError and ObjectMissing."""

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
            raise StoreError(f"{self._what}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    """Return the first line of the message: obstore appends its whole state."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def build_object_store(settings: Settings) -> ObjectStore:
    """Return the store that the settings name: a folder or a bucket. Raise SettingsError if the URL is invalid."""
    if not settings.object_store:
        return LocalObjectStore(settings.data_dir / "objects")
    return S3ObjectStore(
        settings.object_store,
        endpoint=settings.s3_endpoint,
        region=settings.s3_region,
        access_key_id=settings.s3_access_key_id,
        secret_access_key=settings.s3_secret_access_key,
    )
