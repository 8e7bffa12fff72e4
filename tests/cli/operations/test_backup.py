"""Test `minitoolai backup` and `restore`: all rows, images and secrets of one moment, on either database."""

from __future__ import annotations

import subprocess
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from minitoolai.cli import accounts, keys
from minitoolai.cli import common as commands
from minitoolai.cli.main import build_parser
from minitoolai.cli.operations import backup as backups
from minitoolai.core.errors import SettingsError, StoreError
from minitoolai.core.marks import MarkCodec
from minitoolai.images.provenance.certificates import CERTIFICATE_FILES, certificate_digest
from minitoolai.images.provenance.marks import build_marks
from minitoolai.paths import load_secret_keys
from minitoolai.settings import Secret, Settings
from minitoolai.storage import backup
from minitoolai.storage.backup import table_names
from minitoolai.storage.tables import ledger
from tests.support import catalogs
from tests.support.ask import post
from tests.support.cluster import Cluster
from tests.support.server import PROGRAM, Account, ServerProcess
from tests.support.studio_http import CATALOG, generate, job, wait

Make = Callable[[str, str], Settings]


@pytest.fixture
def make(cluster: Cluster, tmp_path: Path) -> Make:
    """Return settings of an empty database, as in `make("sqlite", "old")`."""

    def place(kind: str, name: str) -> Settings:
        url = cluster.url(cluster.create()) if kind == "postgres" else ""
        return Settings(data_dir=tmp_path / name, database_url=Secret(url))

    return place


def command(settings: Settings, *arguments: str) -> int:
    """Run a command in this process."""
    options = build_parser().parse_args(arguments)
    return getattr(backups, arguments[0])(settings, options) or 0


def everything(settings: Settings) -> dict[str, list[Any]]:
    """Return all rows of all tables."""
    return {
        name: sorted(commands.read(settings, lambda c, name=name: c.execute(f"SELECT * FROM {name}")), key=repr)
        for name in table_names()
    }


def used(settings: Settings) -> Settings:
    """Add customers, money, keys and vouchers."""
    commands.prepare(settings)
    for function, *words in (
        (accounts.create_account, "account", "create", "ann@example.com", "--credit", "5.00"),
        (accounts.create_account, "account", "create", "ben@example.com", "--credit", "0.000000001"),
        (keys.create_key, "key", "create", "ann@example.com", "--budget-daily", "1.00"),
        (accounts.grant_credit, "credit", "grant", "ann@example.com", "2.00", "--reference", "invoice 17"),
        (accounts.create_vouchers, "voucher", "create", "10.00", "--count", "3"),
    ):
        function(settings, build_parser().parse_args(words))
    return settings


@pytest.mark.parametrize("target", ["sqlite", "postgres"])
@pytest.mark.parametrize("source", ["sqlite", "postgres"])
def test_every_row_is_restored_from_and_into_either_database(
    make: Make, tmp_path: Path, source: str, target: str
) -> None:
    old, new, file = used(make(source, "old")), make(target, "new"), str(tmp_path / "b.tar.gz")
    assert command(old, "backup", file) == 0
    assert Path(file).stat().st_mode & 0o777 == 0o600
    assert command(new, "restore", file) == 0
    assert everything(new) == everything(old)
    assert (new.data_dir / "secret.key").read_bytes() == (old.data_dir / "secret.key").read_bytes()
    # Sequences continue after the restored IDs.
    accounts.grant_credit(new, build_parser().parse_args(["credit", "grant", "ann@example.com", "1.00"]))
    assert commands.read(new, ledger.broken_invariants) == {}
    with pytest.raises(StoreError, match="already has rows"):
        command(new, "restore", file)


def test_after_a_restore_old_marks_and_manifests_are_still_ours(make: Make, tmp_path: Path) -> None:
    old, new, file = used(make("sqlite", "old")), make("sqlite", "new"), str(tmp_path / "b.tar.gz")
    before = build_marks(old, load_secret_keys(old))
    assert before is not None
    assert command(old, "backup", file) == 0
    assert command(new, "restore", file) == 0
    mark = before.codec.watermark(4711, 1_790_000_000_000)
    read = MarkCodec(load_secret_keys(new)).read(mark.code, mark.key)
    assert read is not None
    assert read.is_of(4711)
    assert certificate_digest(new) == certificate_digest(old) != ""
    build_marks(new, load_secret_keys(new))
    for name in CERTIFICATE_FILES:
        assert (new.data_dir / name).read_bytes() == (old.data_dir / name).read_bytes()
        assert (new.data_dir / name).stat().st_mode & 0o077 == 0


def test_a_damaged_or_truncated_file_restores_nothing(make: Make, tmp_path: Path) -> None:
    old, file = used(make("sqlite", "old")), tmp_path / "b.tar.gz"
    command(old, "backup", str(file))
    whole = file.read_bytes()
    for length in (0, 10, len(whole) // 2):
        file.write_bytes(whole[:length])
        new = make("sqlite", f"new{length}")
        with pytest.raises(StoreError):
            command(new, "restore", str(file))
        database = new.data_dir / "minitoolai.db"
        assert not database.exists() or set(map(len, everything(new).values())) == {0}
    other = tmp_path / "other.tar.gz"
    with tarfile.open(other, "w:gz") as tar:
        tar.add(__file__, "notes.txt")
    with pytest.raises(StoreError, match="not a MiniToolAI backup"):
        command(make("sqlite", "newer"), "restore", str(other))
    file.write_bytes(whole)
    assert command(make("sqlite", "good"), "restore", str(file)) == 0


def test_backup_and_restore_overwrite_nothing(make: Make, tmp_path: Path) -> None:
    old, file = used(make("sqlite", "old")), tmp_path / "b.tar.gz"
    command(old, "backup", str(file))
    before = file.read_bytes()
    with pytest.raises(SettingsError, match="overwrites nothing"):
        command(old, "backup", str(file))
    assert file.read_bytes() == before
    assert not list(tmp_path.glob("*.part"))
    new = make("sqlite", "new")
    new.data_dir.mkdir()
    (new.data_dir / "secret.key").write_bytes(b"another secret")
    with pytest.raises(SettingsError, match="differs from the secret"):
        command(new, "restore", str(file))
    assert (new.data_dir / "secret.key").read_bytes() == b"another secret"
    with pytest.raises(SettingsError, match="nothing to back up"):
        command(make("sqlite", "empty"), "backup", str(tmp_path / "c.tar.gz"))


def test_a_backup_by_a_newer_version_is_refused(make: Make, tmp_path: Path) -> None:
    file = tmp_path / "b.tar.gz"
    with file.open("wb") as opened:
        writer = backup.BackupWriter(opened)
        writer.write_header(backup.BackupHeader(backup.FORMAT, "9.9.9", "9999", "sqlite", 0, "00000000"))
        writer.finish()
    with pytest.raises(StoreError, match=r"newer MiniToolAI \(9\.9\.9\)"):
        command(make("sqlite", "new"), "restore", str(file))


# ── the drill ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def places(cluster: Cluster, tmp_path: Path) -> Callable[[str, str], ServerProcess]:
    def place(kind: str, name: str) -> ServerProcess:
        env = {"MINITOOLAI_DATABASE_URL": cluster.url(cluster.create())} if kind == "postgres" else {}
        folder = tmp_path / name
        folder.mkdir()
        return ServerProcess(folder, catalog=catalogs.FAKE + CATALOG, env=env)

    return place


@pytest.mark.acceptance
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_backup_taken_under_load_is_restored_and_serves(
    places: Callable[[str, str], ServerProcess], tmp_path: Path, kind: str
) -> None:
    file = tmp_path / "drill.tar.gz"
    old = places(kind, "old")
    with old.start() as server:
        account, quiet = server.account(), server.account("7.00")
        asked = job(quiet, prompt="a red apple")
        wait(quiet, asked)
        quiet_has = quiet.settled(within_s=20)
        is_over = threading.Event()
        answered = []

        def load() -> None:
            while not is_over.is_set():
                answered.append(post(account, model="quick").status_code)
                generate(account, model="flat")

        loads = [threading.Thread(target=load) for _ in range(4)]
        for thread in loads:
            thread.start()
        done = server.command("backup", str(file))
        is_over.set()
        for thread in loads:
            thread.join()
        assert done.returncode == 0, done.stderr
        # The backup disturbed no request.
        assert set(answered) == {200}
        after = post(account).headers["x-generation-id"]
    new = places(kind, "new")
    back = new.command("restore", str(file))
    assert back.returncode == 0, back.stdout + back.stderr
    assert f"{len(ledger.INVARIANTS)} invariants hold" in back.stdout
    with new.start() as server:
        moved = Account(server, account.id, account.email, account.key)
        assert Account(server, quiet.id, quiet.email, quiet.key).settled() == quiet_has
        # The key is still valid, and charges after the backup are gone.
        assert post(moved).status_code == 200
        assert (
            requests.get(f"{server.url}/api/generations/{after}", headers=moved.headers, timeout=10).status_code == 404
        )
        # A job's signature and its image are valid here too.
        state = wait(moved, asked)
        assert state["status"] == "success"
        # A request in flight during the backup is recovered once its lease has expired.
        moved.settled(within_s=45)
        server.check_books()


def test_a_backup_can_be_piped_through_standard_output_and_input(make: Make, tmp_path: Path) -> None:
    old = used(make("sqlite", "old"))
    program, new = PROGRAM[0], tmp_path / "new"
    shell = f'"{program}" backup - --data-dir "{old.data_dir}" | "{program}" restore - --data-dir "{new}"'
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", shell], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert everything(Settings(data_dir=tmp_path / "new")) == everything(old)
