"""Where catalog, books and secret lie. Every command asks, so nothing heavy is imported here."""

from __future__ import annotations

import fcntl
import os
from importlib.resources import files
from pathlib import Path

from minitoolai.core.clock import random_bytes
from minitoolai.core.errors import SettingsError
from minitoolai.core.signing import SecretKeys
from minitoolai.settings import Settings
from minitoolai.storage.opening import POSTGRES, SQLITE


def catalog_path(settings: Settings) -> Path:
    """The operator's catalog, or the one that is shipped."""
    return Path(settings.catalog) if settings.catalog else Path(str(files("minitoolai") / "catalog.toml"))


def database_url(settings: Settings) -> str:
    """The address of the books: PostgreSQL where the operator named one, otherwise the file in the data folder.

    The data folder is made in any case. SettingsError where that cannot be, or the address is none.
    """
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"cannot make the data folder {settings.data_dir}: {error.strerror}") from error
    url = str(settings.database_url)
    if not url:
        return f"{SQLITE}{settings.data_dir / 'minitoolai.db'}"
    if not url.startswith(POSTGRES):
        raise SettingsError(
            "MINITOOLAI_DATABASE_URL is no address of a PostgreSQL database; write it like "
            "postgresql://user:password@host:5432/minitoolai, or unset it to keep the books in MINITOOLAI_DATA_DIR"
        )
    return url


def load_secret_keys(settings: Settings) -> SecretKeys:
    """The secret under which keys are hashed and links signed: from the settings, or drawn once into the data folder.

    With it those that were in use before: of MINITOOLAI_SECRET_KEY_PREVIOUS, and the files secret-ID.key.
    """
    named = [text.strip().encode() for text in settings.secret_key_previous.split(",") if text.strip()]
    kept = [path.read_bytes() for path in sorted(settings.data_dir.glob("secret-*.key"))]
    if settings.secret_key:
        # What the file held before there was a setting, too.
        first = settings.data_dir / "secret.key"
        return SecretKeys(
            settings.secret_key.encode(), [*named, *kept, *([first.read_bytes()] if first.exists() else [])]
        )
    return SecretKeys(_first_secret(settings.data_dir / "secret.key"), [*named, *kept])


def _first_secret(path: Path) -> bytes:
    """The file's secret, drawn where there is none: all who start at once get the same one. SettingsError."""
    if not path.exists():
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            if not path.exists():
                _draw_secret(path)
                os.fsync(folder)
        finally:
            os.close(folder)
    secret = path.read_bytes()
    if not secret:
        raise SettingsError(f"{path} is empty: bring it back from a backup; without one, delete it and make new keys")
    return secret


def _draw_secret(path: Path) -> None:
    """Under its name it is whole and on disk, or not there."""
    draft = path.with_name("secret.key.draft")
    draft.unlink(missing_ok=True)
    with open(draft, "xb", opener=lambda text, flags: os.open(text, flags, 0o600)) as file:
        file.write(random_bytes(32))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
