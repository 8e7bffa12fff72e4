"""Find out from a file who generated it, when and with which model, by its manifest and its watermarks.

The file is decoded in a child process with bounded memory and time, because it may come from anybody.
"""

from __future__ import annotations

import asyncio
import base64
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal

import msgspec

from minitoolai.core.clock import generation_name, parse_generation_name
from minitoolai.core.errors import Overloaded
from minitoolai.core.marks import MarkCodec
from minitoolai.images.manifest_reader import ManifestReport, read_manifest

MAX_FILE_BYTES = 50 * 1024 * 1024
#: Wall time for one file, and how many files are checked at once.
TIMEOUT_S = 90.0
MAX_CONCURRENT = 2
#: How many checks may wait.
MAX_WAITING = 8

Find = Callable[[int], Awaitable[list[tuple[int, str, str, str | None, int]]]]


class MarkReport(msgspec.Struct, frozen=True):
    """One watermark. "ours": by this installation. "foreign": by another one, or too damaged to be read."""

    owner: Literal["ours", "foreign"]
    created_ms: int = 0
    #: Empty if the generation is not in the database, or several fit.
    model: str = ""
    generation: str = ""


class CheckReport(msgspec.Struct, frozen=True):
    """What a file says about itself. `fault` is "not_an_image", "too_large" (in pixels), "too_slow" or ""."""

    marks: list[MarkReport] = []
    manifest: ManifestReport | None = None
    #: Whether the manifest names a generation of this installation and is valid.
    is_manifest_ours: bool = False
    fault: str = ""

    @property
    def is_ours(self) -> bool:
        return self.is_manifest_ours or any(mark.owner == "ours" for mark in self.marks)


class _Found(msgspec.Struct, frozen=True):
    key: int
    code: int


class _Detection(msgspec.Struct, frozen=True):
    kind: str
    marks: list[_Found]
    why: str = ""


class MarkChecker:
    """Checks files. `find` returns the generations of a second; `certificate` is the SHA-256 of our certificate."""

    def __init__(self, codec: MarkCodec, find: Find, certificate: Callable[[], str]) -> None:
        self._codec = codec
        self._find = find
        self._certificate = certificate
        self._slots = asyncio.Semaphore(MAX_CONCURRENT)
        self._waiting = 0

    async def check(self, path: Path) -> CheckReport:
        """Return what a file says. Raise Overloaded if too many files are being checked."""
        if self._waiting >= MAX_WAITING:
            raise Overloaded("too many files are being checked; try again in a moment", retry_after_s=10)
        self._waiting += 1
        try:
            async with self._slots:
                manifest = await asyncio.to_thread(lambda: read_manifest(path.read_bytes()))
                result = await self._detect(path)
        finally:
            self._waiting -= 1
        marks = [await self._report(found) for found in result.marks]
        return CheckReport(marks, manifest, self._is_ours(manifest), result.why)

    def _is_ours(self, manifest: ManifestReport | None) -> bool:
        if manifest is None or manifest.state not in ("valid", "expired"):
            return False
        return manifest.certificate == self._certificate() and parse_generation_name(manifest.generation) is not None

    async def _detect(self, path: Path) -> _Detection:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "minitoolai.engines.marks.check", str(path),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        keys = [base64.b64encode(key).decode() for key in self._codec.signal_keys()]
        try:
            async with asyncio.timeout(TIMEOUT_S):
                output, _ = await process.communicate(msgspec.json.encode(keys))
        except TimeoutError:
            return _Detection("", [], "too_slow")
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            # Killed at its limit of memory or time.
            return _Detection("", [], "too_slow")
        return msgspec.json.decode(output, type=_Detection)

    async def _report(self, found: _Found) -> MarkReport:
        read = None
        if found.key >= 0:
            read = self._codec.read(found.code, self._codec.signal_keys()[found.key])
        if read is None:
            return MarkReport("foreign")
        fitting = [row for row in await self._find(read.second) if read.is_of(row[0])]
        if len(fitting) != 1:
            return MarkReport("ours", read.second * 1000)
        number, _, model, served, created_ms = fitting[0]
        return MarkReport("ours", created_ms, served or model, generation_name(number))
