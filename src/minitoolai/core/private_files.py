"""Create files and folders that only their owner can read, under any umask, and tighten existing ones."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

log = logging.getLogger(__name__)
FILE_MODE, FOLDER_MODE = 0o600, 0o700


def private_opener(path: str, flags: int) -> int:
    """Open a file as `open(…, opener=private_opener)` does. A new file is readable by its owner only."""
    descriptor = os.open(path, flags, FILE_MODE)
    if flags & os.O_CREAT and os.fstat(descriptor).st_size == 0:
        # A umask may also take away what the owner needs.
        os.fchmod(descriptor, FILE_MODE)
    return descriptor


def create_private_file(path: Path) -> None:
    """Create an empty file for its owner only, unless it exists."""
    try:
        with open(path, "xb", opener=private_opener):
            pass
    except FileExistsError:
        return


def make_private_folder(path: Path) -> None:
    """Create a folder for its owner only, with its parents, unless it exists."""
    if path.is_dir():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir(FOLDER_MODE)
    except FileExistsError:
        if not path.is_dir():
            raise
    else:
        path.chmod(FOLDER_MODE)


def tighten(folder: Path, files: Iterable[str], trees: Iterable[str]) -> int:
    """Take a folder and what lies in it away from other users; log and return how many modes were changed.

    `files` are patterns of files in the folder, `trees` names of folders in it with private content. The
    content of a tree is looked at only where its folder is open to others, so a start costs no walk over all images.
    """
    changed = int(_tighten_one(folder, FOLDER_MODE))
    for pattern in files:
        changed += sum(_tighten_one(path, FILE_MODE) for path in folder.glob(pattern))
    for name in trees:
        changed += sum(
            _tighten_one(path, FOLDER_MODE if path.is_dir() else FILE_MODE) for path in _open_paths(folder / name)
        )
    if changed:
        log.warning(
            "tightened the modes of %d files and folders in %s: only their owner may read them", changed, folder
        )
    return changed


def _open_paths(root: Path) -> Iterator[Path]:
    """Yield the files below the folders that others may enter, and after them these folders."""
    folders = [root, *(path for path in root.iterdir() if path.is_dir())] if root.is_dir() else []
    for folder in reversed(folders):
        if stat.S_IMODE(folder.stat().st_mode) & ~FOLDER_MODE:
            yield from (path for path in folder.iterdir() if path.is_file())
            yield folder


def _tighten_one(path: Path, mode: int) -> bool:
    """Reduce a mode and return True if that was necessary. A folder that others share, as /tmp, is left as it is."""
    try:
        found = path.lstat()
        if stat.S_ISLNK(found.st_mode) or not stat.S_IMODE(found.st_mode) & ~mode:
            return False
        is_ours = os.geteuid() in (0, found.st_uid) and not found.st_mode & stat.S_ISVTX
        if not is_ours:
            log.warning(
                "%s is open to other users, and this user does not own it alone; change its owner or mode", path
            )
            return False
        path.chmod(stat.S_IMODE(found.st_mode) & mode)
    except FileNotFoundError:
        # A WAL file or an image that has been deleted since.
        return False
    return True
