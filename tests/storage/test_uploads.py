"""Temporary files of uploads: gone with their request, and after a SIGKILL with the next start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from minitoolai.core.errors import RateLimited
from minitoolai.storage.uploads import MAX_PER_ACCOUNT, UploadFolder


def test_a_file_lives_as_long_as_its_request(tmp_path: Path) -> None:
    folder = UploadFolder(tmp_path / "uploads")
    with folder.reserved(1) as path:
        path.write_bytes(b"hello")
        assert path.stat().st_mode & 0o777 == 0o600
    assert not path.exists()
    with pytest.raises(ValueError, match="broken"), folder.reserved(1) as path:
        raise ValueError("broken")
    assert not path.exists()
    folder.close()
    assert list((tmp_path / "uploads").iterdir()) == []


def test_an_account_has_a_limit_of_its_own(tmp_path: Path) -> None:
    folder = UploadFolder(tmp_path)
    held = [folder.reserved(1) for _ in range(MAX_PER_ACCOUNT)]
    paths = [each.__enter__() for each in held]
    with pytest.raises(RateLimited), folder.reserved(1):
        pass
    with folder.reserved(2):
        pass
    for each in held:
        each.__exit__(None, None, None)
    assert not any(path.exists() for path in paths)
    with folder.reserved(1):
        pass


CHILD = """
import sys, time
from pathlib import Path
from minitoolai.storage.uploads import UploadFolder
with UploadFolder(Path(sys.argv[1])).reserved(1) as path:
    path.write_bytes(b"secret")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_only_folders_of_killed_processes_are_deleted(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    other = UploadFolder(tmp_path)
    with other.reserved(1) as mine:
        assert other.delete_abandoned() == 0
        assert len(list(tmp_path.glob("*/tmp*"))) == 2
        child.kill()
        child.communicate()
        assert other.delete_abandoned() == 1
        assert list(tmp_path.glob("*/tmp*")) == [mine]
