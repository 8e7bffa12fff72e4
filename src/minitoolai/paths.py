"""Locate the catalog, the database and the secret key. Every command uses this, so it imports nothing heavy."""

from __future__ import annotations

import fcntl
import os
from contextlib import closing
from importlib.resources import files
from pathlib import Path

from minitoolai.core.clock import random_bytes
from minitoolai.core.errors import SettingsError
from minitoolai.core.private_files import make_private_folder, private_opener, tighten
from minitoolai.core.signing import SecretKeys, all_keys, secret_id, secret_mark
from minitoolai.settings import Settings
from minitoolai.storage.database import Database
from minitoolai.storage.opening import POSTGRES, SQLITE, has_table, open_database
from minitoolai.storage.tables.accounts import find_secret_mark, record_secret_mark

#: Files of the data folder that only their owner may read, and folders with such content.
PRIVATE_FILES = ("minitoolai.db*", "secret*.key*", "serve.lock")
PRIVATE_TREES = ("objects",)


def catalog_path(settings: Settings) -> Path:
    """Return the path of the operator's catalog, or of the bundled one."""
    return Path(settings.catalog) if settings.catalog else Path(str(files("minitoolai") / "catalog.toml"))


def database_url(settings: Settings) -> str:
    """Return the address of the database: PostgreSQL if configured, else the SQLite file in the data folder.

    Create the data folder. Raise SettingsError if that fails or the address is invalid.
    """
    try:
        make_private_folder(settings.data_dir)
    except OSError as error:
        raise SettingsError(f"cannot create the data folder {settings.data_dir}: {error.strerror}") from error
    url = str(settings.database_url)
    if not url:
        return f"{SQLITE}{settings.data_dir / 'minitoolai.db'}"
    if not url.startswith(POSTGRES):
        raise SettingsError(
            "MINITOOLAI_DATABASE_URL is not a PostgreSQL address; write it like "
            "postgresql://user:password@host:5432/minitoolai, or unset it to use a file in MINITOOLAI_DATA_DIR"
        )
    return url


def tighten_data_dir(settings: Settings) -> None:
    """Take database, secrets and images of the data folder away from other users, and log if that was necessary."""
    tighten(settings.data_dir, PRIVATE_FILES, PRIVATE_TREES)


# ── the secret ────────────────────────────────────────────────────────────────────────────────────────────


def load_secret_keys(settings: Settings) -> SecretKeys:
    """Return the key ring that hashes API keys and signs links: from the settings, or created once in the data folder.

    Previous keys come from MINITOOLAI_SECRET_KEY_PREVIOUS and from the files secret-ID.key. The database remembers
    which secret it was used with. Raise SettingsError, and create nothing, if that one is not in the ring.
    """
    with closing(open_database(database_url(settings), serving=False)) as database:
        has_marks = has_table(database, "installation")
        mark = database.read(find_secret_mark) if has_marks else None
        ring = existing_secret_keys(settings)
        if mark is not None and (ring is None or mark not in map(secret_mark, all_keys(ring))):
            raise SettingsError(_lost_secret(settings, mark, ring, database.where))
        if ring is None:
            ring = SecretKeys(_create_secret_once(settings.data_dir / "secret.key"), _previous_secrets(settings))
        if has_marks and mark != secret_mark(ring):
            _record_mark(database, secret_mark(ring), mark)
    return ring


def accept_secret(settings: Settings, lost_id: str) -> SecretKeys:
    """Let the database forget a lost secret, and return the key ring that replaces it. Raise SettingsError if not lost.

    API keys, vouchers and links that were made under the lost secret stay invalid.
    """
    with closing(open_database(database_url(settings), serving=False)) as database:
        mark = database.read(find_secret_mark) if has_table(database, "installation") else None
        ring = existing_secret_keys(settings)
        if mark is None or (ring is not None and mark in map(secret_mark, all_keys(ring))):
            raise SettingsError(f"no secret is missing for {database.where}, so there is nothing to accept")
        if lost_id != _id_in(mark):
            raise SettingsError(f"the secret that is missing is {_id_in(mark)}, not {lost_id}")
        if ring is None:
            ring = SecretKeys(_create_secret_once(settings.data_dir / "secret.key"), _previous_secrets(settings))
        _record_mark(database, secret_mark(ring), mark)
    return ring


def existing_secret_keys(settings: Settings) -> SecretKeys | None:
    """Return the key ring as it is, without any check, or None if there is no current secret. Create nothing."""
    first = settings.data_dir / "secret.key"
    if settings.secret_key:
        # Also accept the key in the file from before the setting was made.
        stored = [first.read_bytes()] if first.exists() else []
        return SecretKeys(settings.secret_key.encode(), [*_previous_secrets(settings), *stored])
    return SecretKeys(_read_secret(first), _previous_secrets(settings)) if first.exists() else None


def _previous_secrets(settings: Settings) -> list[bytes]:
    configured = [text.strip().encode() for text in settings.secret_key_previous.split(",") if text.strip()]
    return [*configured, *(path.read_bytes() for path in sorted(settings.data_dir.glob("secret-*.key")))]


def _record_mark(database: Database, mark: str, before: str | None) -> None:
    with closing(database.connect()) as connection, connection.transaction():
        record_secret_mark(connection, mark, instead_of=before)


def _id_in(mark: str) -> str:
    return mark.partition("-")[0]


def _lost_secret(settings: Settings, mark: str, ring: SecretKeys | None, where: str) -> str:
    """Return the message for a database with a missing secret: the fault and both remedies."""
    lost, file = _id_in(mark), settings.data_dir / "secret.key"
    found = f"the present secret is {secret_id(ring)}" if ring is not None else f"{file} is missing"
    return (
        f"the API keys in {where} were made under the secret {lost}, but {found}; restore {file} from a backup, "
        f"or put that secret into MINITOOLAI_SECRET_KEY (or, if it was replaced on purpose, into "
        f"MINITOOLAI_SECRET_KEY_PREVIOUS). If it is lost for ever, run minitoolai secret accept {lost}: then every API "
        "key, every unused voucher, every link to an image and every webhook secret made under it becomes invalid"
    )


def _create_secret_once(path: Path) -> bytes:
    """Return the secret in a file, creating it if missing. Processes that start together get the same one."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if not path.exists():
            _create_secret(path)
            os.fsync(folder)
    finally:
        os.close(folder)
    return _read_secret(path)


def _read_secret(path: Path) -> bytes:
    secret = path.read_bytes()
    if not secret:
        raise SettingsError(f"{path} is empty: restore it from a backup, or delete it and create new API keys")
    return secret


def _create_secret(path: Path) -> None:
    """Write a new secret atomically: the file is complete and on disk, or missing."""
    draft = path.with_name("secret.key.draft")
    draft.unlink(missing_ok=True)
    with open(draft, "xb", opener=private_opener) as file:
        file.write(random_bytes(32))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
