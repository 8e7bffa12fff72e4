"""Files under static/: read once, served from memory, under addresses that change with them."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import msgspec

FOLDER = Path(__file__).parent / "static"
TYPES = {
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
}


class Asset(msgspec.Struct, frozen=True):
    """One file, as it is and compressed."""

    body: bytes
    packed: bytes
    media_type: str


class Assets:
    """Every file by its path. All share one hash, so that scripts can import each other by plain names."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._files: dict[str, Asset] = {}
        sums = hashlib.sha256()
        for path in sorted(p for p in folder.rglob("*") if p.suffix in TYPES):
            body = path.read_bytes()
            name = path.relative_to(folder).as_posix()
            sums.update(name.encode() + b"\0" + body)
            self._files[name] = Asset(body, gzip.compress(body, mtime=0), TYPES[path.suffix])
        self.version = sums.hexdigest()[:12]

    def url(self, name: str) -> str:
        """Where a page links to. KeyError for a file that is not there: a mistake in a template."""
        self._files[name]
        return f"/static/{self.version}/{name}"

    def find(self, path: str) -> Asset | None:
        """The file behind `VERSION/NAME`; old versions find nothing."""
        version, _, name = path.strip("/").partition("/")
        return self._files.get(name) if version == self.version else None
