"""Receive forms with files: files go to the disk as they arrive, the other fields stay in memory."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Final

import msgspec

from minitoolai.core.errors import BodyTooLarge, ClientLeft, InvalidRequest, UnsupportedContentEncoding
from minitoolai.core.threads import UPLOADS
from minitoolai.core.transcription import UploadedFile
from minitoolai.http.asgi import Receive, Scope, headers_by_name
from minitoolai.http.bodies.multipart import MultipartParser, PartData, PartHead, boundary_of
from minitoolai.storage.uploads import UploadFolder

#: Key of an upload in the ASGI scope, if it was received before the handler was called.
UPLOAD: Final = "minitoolai.upload"
#: Most bytes of all fields together, and most fields.
MAX_FIELD_BYTES = 64 * 1024
MAX_FIELDS = 64
#: Write to the disk in pieces of this size.
_WRITE_BYTES = 1024 * 1024


class Form(msgspec.Struct):
    """A received form. Each field has all of its values in order."""

    fields: dict[str, list[str]]
    #: The files of each field, in order.
    files: dict[str, list[UploadedFile]]
    #: The fields of a request that was sent as JSON instead.
    json: dict[str, Any] | None = None

    @property
    def file(self) -> UploadedFile | None:
        """Return the only file of a form that has at most one."""
        return next((file for files in self.files.values() for file in files), None)

    def identity(self) -> bytes:
        """Return what distinguishes the form. Its boundary, which clients draw at random, does not count."""
        files = [
            (field, [(file.name, file.size, file.digest) for file in self.files[field]]) for field in sorted(self.files)
        ]
        return msgspec.msgpack.encode((sorted(self.fields.items()), files, self.json))


class FileForms:
    """Receives forms with files, each of at most `max_bytes`."""

    def __init__(
        self,
        folder: UploadFolder,
        max_bytes: int,
        fields: Mapping[str, int] = MappingProxyType({"file": 1}),
        *,
        max_total_bytes: int | None = None,
        remedy: str = "Send it in parts, or compress it as mp3 or opus first.",
        example: str = "audio.mp3",
    ) -> None:
        """`fields`: how many files each of these fields may have. `remedy` is for a file that is too large."""
        self.folder = folder
        self.rules = FileRules(max_bytes, max_total_bytes or max_bytes, dict(fields), remedy, example)

    @property
    def max_mb(self) -> int:
        """Return the limit of a file, in MB."""
        return self.rules.max_bytes // 1024**2

    @asynccontextmanager
    async def received(self, account_id: int, scope: Scope, receive: Receive) -> AsyncIterator[Form]:
        """Receive a whole form; its files are deleted at the end.

        Raise BodyTooLarge, WrongContentType, InvalidRequest, RateLimited or ClientLeft.
        """
        if scope.get(UPLOAD) is not None:
            yield scope[UPLOAD]
            return
        headers = headers_by_name(scope)
        boundary = boundary_of(headers.get(b"content-type", b""))
        if headers.get(b"content-encoding", b"identity").strip().lower() != b"identity":
            raise UnsupportedContentEncoding("Send a form with a file as it is, without Content-Encoding.")
        # int() refuses strings of more than 4,300 digits; the first 20 are enough here.
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length[:20]) > self.rules.max_total_bytes + 2 * MAX_FIELD_BYTES:
            raise self.rules.too_large(self.rules.main_field)
        with ExitStack() as stack:
            receiver = _Receiver(MultipartParser(boundary), self.folder, account_id, self.rules, stack)
            await receiver.receive(receive)
            yield Form(receiver.fields, receiver.files)


class FileRules(msgspec.Struct, frozen=True):
    """Which files a form may have."""

    max_bytes: int
    max_total_bytes: int
    fields: dict[str, int]
    remedy: str
    example: str

    @property
    def main_field(self) -> str:
        """Return the field that most forms have their file in."""
        return next(iter(self.fields))

    def too_large(self, field: str) -> BodyTooLarge:
        """Return the error for a file over the limit."""
        size = self.max_bytes
        limit = f"{size // 1024**2} MB" if size >= 1024**2 else f"{size} bytes"
        return BodyTooLarge(f"{field} is larger than {limit}. {self.remedy}", param=field, code="file_too_large")


class _OpenFile:
    """A file of a form that is being received."""

    def __init__(self, field: str, name: str, path: Path, file: IO[bytes]) -> None:
        self.field, self.name, self.path, self.file = field, name, path, file
        self.size = 0
        self.hash = hashlib.sha256()
        self.unwritten: list[bytes] = []

    def write(self, blocks: list[bytes]) -> None:
        for block in blocks:
            self.hash.update(block)
            self.file.write(block)


class _Receiver:
    """Takes the parts of one form."""

    def __init__(
        self, parser: MultipartParser, folder: UploadFolder, account_id: int, rules: FileRules, stack: ExitStack
    ) -> None:
        self._parser = parser
        self._folder = folder
        self._account_id = account_id
        self._rules = rules
        #: Deletes the files when the request ends.
        self._stack = stack
        self.fields: dict[str, list[str]] = {}
        self.files: dict[str, list[UploadedFile]] = {}
        self._file_bytes = 0
        self._field_bytes = 0
        #: The current part: a file, or the name and value of a field.
        self._file: _OpenFile | None = None
        self._ended: list[_OpenFile] = []
        self._name: str | None = None
        self._value = bytearray()

    async def receive(self, receive: Receive) -> None:
        """Read the body to its end."""
        received = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientLeft("The client disconnected before its request was complete.")
            body: bytes = message.get("body", b"")
            received += len(body)
            if received > self._rules.max_total_bytes + 4 * MAX_FIELD_BYTES:
                raise self._rules.too_large(self._rules.main_field)
            for found in self._parser.feed(body):
                self._take(found)
            if self._ended or (self._file is not None and sum(map(len, self._file.unwritten)) >= _WRITE_BYTES):
                await self._write()
            if not message.get("more_body"):
                break
        if not self._parser.is_complete:
            raise InvalidRequest(
                "The form is incomplete: its last boundary is missing. Send all of it.", code="invalid_form"
            )
        self._end_part()
        await self._write()

    async def _write(self) -> None:
        """Write what has arrived, and close the files that are complete."""
        ended, self._ended = self._ended, []
        for file in [*ended, *([self._file] if self._file is not None else [])]:
            blocks, file.unwritten = file.unwritten, []
            if blocks:
                await UPLOADS.run(file.write, blocks)
        for file in ended:
            file.file.close()
            upload = UploadedFile(file.path, file.name, file.size, file.hash.hexdigest())
            self.files.setdefault(file.field, []).append(upload)

    def _take(self, found: PartHead | PartData) -> None:
        if isinstance(found, PartHead):
            self._end_part()
            self._begin_part(found)
        elif self._file is not None:
            self._file.size += len(found.data)
            self._file_bytes += len(found.data)
            if self._file.size > self._rules.max_bytes or self._file_bytes > self._rules.max_total_bytes:
                raise self._rules.too_large(self._file.field)
            self._file.unwritten.append(found.data)
        elif self._name is not None:
            self._count(len(found.data), self._name)
            self._value += found.data

    def _begin_part(self, head: PartHead) -> None:
        field = head.name.removesuffix("[]")
        if field in self._rules.fields:
            if head.filename is None:
                raise InvalidRequest(
                    f"{field} must be a file with a filename, not a text. With curl: -F {field}=@{self._rules.example}",
                    param=field,
                )
            self._begin_file(field, head.filename)
            return
        if head.filename is not None:
            name = head.name[:64]
            raise InvalidRequest(
                f"{name} must not be a file. The file belongs in {self._rules.main_field}.", param=name
            )
        if sum(map(len, self.fields.values())) >= MAX_FIELDS:
            raise InvalidRequest(f"The form has more than {MAX_FIELDS} fields.", code="invalid_form")
        self._name = head.name
        self._count(len(head.name), head.name)

    def _begin_file(self, field: str, filename: str) -> None:
        most = self._rules.fields[field]
        if len(self.files.get(field, [])) + sum(file.field == field for file in self._ended) >= most:
            if most == 1:
                raise InvalidRequest(f"{field} was sent twice. Send one file per request.", param=field)
            raise InvalidRequest(f"{field} was sent more than {most} times. Send at most {most} files.", param=field)
        path = self._stack.enter_context(self._folder.reserved(self._account_id))
        self._file = _OpenFile(field, filename[:255], path, self._stack.enter_context(path.open("wb")))

    def _count(self, size: int, name: str) -> None:
        self._field_bytes += size
        if self._field_bytes > MAX_FIELD_BYTES:
            name = name[:64]
            raise BodyTooLarge(f"The fields of the form are longer than {MAX_FIELD_BYTES // 1024} kB.", param=name)

    def _end_part(self) -> None:
        if self._file is not None:
            self._ended.append(self._file)
            self._file = None
        if self._name is None:
            return
        try:
            text = self._value.decode("utf-8")
        except UnicodeDecodeError:
            raise InvalidRequest(f"{self._name[:64]} is not UTF-8.", param=self._name[:64]) from None
        self.fields.setdefault(self._name, []).append(text)
        self._name, self._value = None, bytearray()
