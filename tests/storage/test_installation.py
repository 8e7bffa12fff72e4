"""The database remembers the secret that it was used with; another one is refused until the loss is accepted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from minitoolai.cli.common import prepare
from minitoolai.cli.operations.secrets import rotate
from minitoolai.core.errors import SettingsError
from minitoolai.core.signing import SecretKeys, all_keys, secret_id, secret_mark
from minitoolai.paths import accept_secret, load_secret_keys
from minitoolai.settings import Secret, Settings
from minitoolai.storage.tables.accounts import find_secret_mark, record_secret_mark
from tests.support import catalogs
from tests.support.books import TemporaryBooks, new_file
from tests.support.cli import Cli
from tests.support.server import ServerProcess


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = Settings(data_dir=tmp_path / "data")
    prepare(made)
    return made


def test_a_mark_reveals_no_secret_and_differs_for_each() -> None:
    assert secret_mark(b"one") != secret_mark(b"two")
    assert secret_mark(b"one").startswith(secret_id(b"one"))
    assert secret_mark(SecretKeys(b"one", [b"two"])) == secret_mark(b"one")


def test_a_mark_is_replaced_only_where_it_is_still_the_one_that_was_read(books: TemporaryBooks) -> None:
    with books.connection.transaction():
        record_secret_mark(books.connection, "a", instead_of=None)
        record_secret_mark(books.connection, "b", instead_of=None)
        record_secret_mark(books.connection, "c", instead_of="other")
    assert books.database.read(find_secret_mark) == "a"
    with books.connection.transaction():
        record_secret_mark(books.connection, "c", instead_of="a")
    assert books.database.read(find_secret_mark) == "c"


def test_a_lost_secret_is_not_replaced_silently(settings: Settings) -> None:
    lost, file = load_secret_keys(settings), settings.data_dir / "secret.key"
    file.unlink()
    with pytest.raises(SettingsError, match=f"made under the secret {secret_id(lost)}, but .*secret.key is missing"):
        load_secret_keys(settings)
    assert not file.exists()
    file.write_bytes(lost)
    assert load_secret_keys(settings) == lost


@pytest.mark.parametrize("how", ["file", "setting"])
def test_another_secret_is_refused_with_both_remedies(settings: Settings, how: str) -> None:
    lost = load_secret_keys(settings)
    other = settings
    if how == "file":
        (settings.data_dir / "secret.key").write_bytes(b"another")
    else:
        (settings.data_dir / "secret.key").unlink()
        other = Settings(data_dir=settings.data_dir, secret_key=Secret("another"))
    with pytest.raises(SettingsError) as refusal:
        load_secret_keys(other)
    said = str(refusal.value)
    assert f"the present secret is {secret_id(b'another')}" in said
    assert "restore" in said
    assert "MINITOOLAI_SECRET_KEY_PREVIOUS" in said
    assert f"minitoolai secret accept {secret_id(lost)}" in said


def test_the_old_secret_as_a_previous_one_is_a_rotation(settings: Settings) -> None:
    old = load_secret_keys(settings)
    moved = Settings(data_dir=settings.data_dir, secret_key=Secret("new"))
    assert load_secret_keys(moved) == b"new"
    # From now on the database knows the new one, so the old one alone is refused.
    with pytest.raises(SettingsError, match="secret accept"):
        load_secret_keys(settings)
    assert all_keys(load_secret_keys(moved)) == (b"new", bytes(old))


def test_a_secret_that_was_rotated_can_be_forgotten_at_once(settings: Settings) -> None:
    old = load_secret_keys(settings)
    rotate(settings, None)  # type: ignore[arg-type]
    (settings.data_dir / f"secret-{secret_id(old)}.key").unlink()
    assert load_secret_keys(settings) != old


def test_a_loss_is_accepted_by_the_id_of_what_is_lost(settings: Settings) -> None:
    lost = load_secret_keys(settings)
    with pytest.raises(SettingsError, match="no secret is missing"):
        accept_secret(settings, secret_id(lost))
    (settings.data_dir / "secret.key").unlink()
    with pytest.raises(SettingsError, match=f"the secret that is missing is {secret_id(lost)}, not 00000000"):
        accept_secret(settings, "00000000")
    new = accept_secret(settings, secret_id(lost))
    assert load_secret_keys(settings) == new
    assert new != lost


def test_an_old_database_adopts_the_present_secret(settings: Settings) -> None:
    """A database from before has the empty table that the migration makes."""
    (settings.data_dir / "secret.key").write_bytes(b"from before")
    assert load_secret_keys(settings) == b"from before"
    (settings.data_dir / "secret.key").write_bytes(b"another")
    with pytest.raises(SettingsError, match=secret_id(b"from before")):
        load_secret_keys(settings)


SIGNING = (
    ("serve", "--port", "0"),
    ("key", "create", "ann@example.com"),
    ("key", "rotate", "0aB1cD2eF3gH"),
    ("voucher", "create", "10.00"),
    ("secret", "rotate"),
    ("backup", "copy.tar.gz"),
)


def test_every_command_that_signs_refuses_and_others_work(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    cli.within("account", "create", "ann@example.com", "--credit", "5.00")
    assert cli.within("key", "create", "ann@example.com").out.startswith("sk-mt-")
    before = (cli.data_dir / "secret.key").read_bytes()
    (cli.data_dir / "secret.key").unlink()
    for command in SIGNING:
        said = cli.within(*command)
        assert (said.status, said.out) == (1, "")
        assert f"minitoolai secret accept {secret_id(before)}" in said.err
    assert not (cli.data_dir / "secret.key").exists()
    for command in (("balance", "ann@example.com"), ("audit",), ("key", "list", "ann@example.com")):
        assert cli.within(*command).status == 0
    assert "FAULT  database: the API keys in" in cli.within("doctor", "--offline").out
    said = cli.within("secret", "accept", secret_id(before))
    assert said.status == 0
    assert f"made under {secret_id(before)} is invalid" in said.out
    assert cli.within("key", "create", "ann@example.com").status == 0


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_everything_in_a_new_data_folder_is_private(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        cli = Cli(tmp_path)
        cli.within("account", "create", "ann@example.com", "--credit", "5.00")
        cli.within("key", "create", "ann@example.com")
        cli.within("doctor", "--offline")
        cli.within("backup", str(tmp_path / "copy.tar.gz"))
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in [cli.data_dir, *cli.data_dir.rglob("*")]}
    folders = {path.name for path in [cli.data_dir, *cli.data_dir.rglob("*")] if path.is_dir()}
    assert {"minitoolai.db", "secret.key", "objects"} <= modes.keys()
    assert modes == {name: 0o700 if name in folders else 0o600 for name in modes}
    assert (tmp_path / "copy.tar.gz").stat().st_mode & 0o777 == 0o600


@pytest.mark.acceptance
def test_a_wide_data_folder_is_tightened_when_the_server_starts(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path, catalog=catalogs.FAKE)
    server.data_dir.mkdir(0o755)
    image = server.data_dir / "objects" / "ab" / "image.png"
    image.parent.mkdir(parents=True)
    new_file(server.data_dir)
    (server.data_dir / "secret.key").write_bytes(b"from before")
    image.write_bytes(b"image")
    paths = [server.data_dir, *server.data_dir.rglob("*")]
    for path in paths:
        path.chmod(0o755 if path.is_dir() else 0o644)
    with server:
        assert "tightened the modes of 6 files and folders" in server.log.read_text()
        assert [path for path in [server.data_dir, *server.data_dir.rglob("*")] if path.stat().st_mode & 0o077] == []
