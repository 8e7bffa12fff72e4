"""Temporary files for uploads. They are deleted with their request, or by the next start after a SIGKILL.

Each process has a folder of its own with a locked file. The kernel releases the lock when the process ends, so a folder
without a lock belongs to no process. Several processes may share a data folder.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from minitoolai.core.errors import RateLimited

log = logging.getLogger(__name__)

#: Uploads of one account that a process holds at the same time: each takes up to the size limit on the disk.
MAX_PER_ACCOUNT = 16
_LOCK = "lock"
#: Name of a folder that is not locked yet begins so.
_UNLOCKED = "new-"


class UploadFolder:
    """Where this process stores uploads. Made at the first upload."""

    def __init__(self, folder: Path) -> None:
        self._parent = folder
        self._own: Path | None = None
        self._lock: int | None = None
        self._by_account: Counter[int] = Counter()

    @contextmanager
    def reserved(self, account_id: int) -> Iterator[Path]:
        """Yield the path of a new file, which is deleted at the end. Raise RateLimited if the account has too many."""
        if self._by_account[account_id] >= MAX_PER_ACCOUNT:
            raise RateLimited(
                f"This account has {MAX_PER_ACCOUNT} uploads in progress, which is its limit. Wait for one to end.",
                retry_after_s=1,
            )
        self._by_account[account_id] += 1
        path: Path | None = None
        try:
            handle, name = tempfile.mkstemp(dir=self._folder())
            os.close(handle)
            path = Path(name)
            yield path
        finally:
            self._by_account[account_id] -= 1
            if not self._by_account[account_id]:
                del self._by_account[account_id]
            if path is not None:
                path.unlink(missing_ok=True)

    def _folder(self) -> Path:
        if self._own is None:
            self._parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            new = Path(tempfile.mkdtemp(prefix=_UNLOCKED, dir=self._parent))
            lock = os.open(new / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Only now do other processes look at its lock.
            self._own, self._lock = new.rename(new.with_name(new.name.removeprefix(_UNLOCKED))), lock
        return self._own

    def close(self) -> None:
        """Delete the folder of this process."""
        if self._own is not None and self._lock is not None:
            shutil.rmtree(self._own, ignore_errors=True)
            os.close(self._lock)
            self._own = self._lock = None

    def delete_abandoned(self) -> int:
        """Delete the folders of processes that have ended, and return how many there were."""
        abandoned = [folder for folder in self._parent.glob("*") if folder != self._own and _is_abandoned(folder)]
        for folder in abandoned:
            shutil.rmtree(folder, ignore_errors=True)
        if abandoned:
            log.info("deleted the uploads of %d processes that had been killed", len(abandoned))
        return len(abandoned)


def _is_abandoned(folder: Path) -> bool:
    if folder.name.startswith(_UNLOCKED):
        return False
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True
