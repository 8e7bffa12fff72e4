"""Where pictures lie when several machines draw: a bucket of S3 or of anything that speaks it, by obstore."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

from minitoolai.core.errors import ObjectMissing, SettingsError, StoreError
from minitoolai.storage.object_store import KEY, key_at, object_key, path_of

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
