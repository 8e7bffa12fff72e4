"""Where the catalog, the database and the secret key are."""

from __future__ import annotations

from pathlib import Path

import pytest

from minitoolai.core.errors import SettingsError
from minitoolai.core.signing import all_keys
from minitoolai.paths import catalog_path, database_url, load_secret_keys
from minitoolai.settings import Secret, Settings


def test_the_bundled_catalog_is_used_unless_another_is_named(tmp_path: Path) -> None:
    assert catalog_path(Settings()).is_file()
    assert catalog_path(Settings(catalog=str(tmp_path / "mine.toml"))) == tmp_path / "mine.toml"


def test_the_database_is_a_file_in_the_data_folder_which_is_created(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "data"
    assert database_url(Settings(data_dir=folder)) == f"sqlite:///{folder}/minitoolai.db"
    assert folder.is_dir()


def test_a_postgres_address_is_used_as_it_is(tmp_path: Path) -> None:
    url = Secret("postgresql://ann:secret@db/books")
    assert database_url(Settings(data_dir=tmp_path, database_url=url)) == url


def test_another_address_is_refused_without_being_repeated(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="MINITOOLAI_DATABASE_URL is not a PostgreSQL address") as refusal:
        database_url(Settings(data_dir=tmp_path, database_url=Secret("mysql://ann:secret@db/books")))
    assert "secret" not in str(refusal.value)


def test_a_data_folder_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"cannot create the data folder .*file/data"):
        database_url(Settings(data_dir=tmp_path / "file" / "data"))


def test_a_secret_key_is_created_once_for_this_user_only(tmp_path: Path) -> None:
    secret = load_secret_keys(Settings(data_dir=tmp_path))
    assert len(secret) == 32
    assert (tmp_path / "secret.key").stat().st_mode & 0o777 == 0o600
    assert load_secret_keys(Settings(data_dir=tmp_path)) == secret
    assert [path.name for path in tmp_path.iterdir()] == ["secret.key"]


def test_an_unfinished_draft_of_a_secret_key_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "secret.key.draft").write_bytes(b"half")
    assert len(load_secret_keys(Settings(data_dir=tmp_path))) == 32


def test_an_empty_secret_file_is_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "secret.key").write_bytes(b"")
    with pytest.raises(SettingsError, match="is empty: restore it from a backup"):
        load_secret_keys(Settings(data_dir=tmp_path))


def test_previous_keys_come_from_the_setting_and_from_files(tmp_path: Path) -> None:
    (tmp_path / "secret.key").write_bytes(b"first")
    (tmp_path / "secret-01.key").write_bytes(b"rotated")
    settings = Settings(data_dir=tmp_path, secret_key=Secret("now"), secret_key_previous=Secret("a, b,,"))
    assert all_keys(load_secret_keys(settings)) == (b"now", b"a", b"b", b"rotated", b"first")
    assert all_keys(load_secret_keys(Settings(data_dir=tmp_path))) == (b"first", b"rotated")
