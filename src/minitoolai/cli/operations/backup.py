"""`minitoolai backup` and `minitoolai restore`: a consistent snapshot in one file, taken beside a running server.

The format does not depend on the database: a backup of SQLite can be restored into PostgreSQL and vice versa.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import IO

from minitoolai import __version__
from minitoolai.cli.common import CLOCK, Commands, add_command, say
from minitoolai.cli.operations.secrets import write_secret
from minitoolai.core.errors import ObjectMissing, SettingsError, StoreError
from minitoolai.core.money import short_dollars
from minitoolai.core.private_files import private_opener
from minitoolai.core.signing import all_keys, secret_id
from minitoolai.images.provenance.certificates import CERTIFICATE_FILES
from minitoolai.paths import database_url, existing_secret_keys, load_secret_keys
from minitoolai.settings import Settings
from minitoolai.storage import backup as backup_file
from minitoolai.storage.archive.rows import archived_days, paths_of
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.object_store import ObjectStore, build_object_store, job_of
from minitoolai.storage.opening import SQLITE, current_revision, has_tables, migrate, newest_revision, open_database
from minitoolai.storage.sqlite import exclusive_database
from minitoolai.storage.tables.ledger import INVARIANTS, broken_invariants

_FOREVER_MS = 2**62


def add_backup(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add `backup`."""
    about = "write ledger, keys, secret and images to one file, beside a running server"
    parser = add_command(commands, "backup", about, backup, "backup /backups/2026-11-21.tar.gz")
    parser.add_argument("file", help="a new file, or - for standard output; keep it secret")
    parser.add_argument("--no-pictures", action="store_true", help="leave the images out")


def add_restore(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add `restore`."""
    about = "restore a backup into an empty database, and check the ledger"
    parser = add_command(commands, "restore", about, restore, "restore /backups/2026-11-21.tar.gz --data-dir new")
    parser.add_argument("file", help="a file written by backup, or - for standard input")


def backup(settings: Settings, options: argparse.Namespace) -> None:
    """Write a backup and report its size."""
    url = database_url(settings)
    with closing(open_database(url, serving=False)) as database:
        if not has_tables(database):
            raise SettingsError(f"there is no table in {database.where}, so nothing to back up; choose --data-dir")
        secret = load_secret_keys(settings)
        with _target(options.file) as file:
            writer = backup_file.BackupWriter(file)
            revision = current_revision(url) or newest_revision()
            writer.write_header(
                backup_file.BackupHeader(
                    backup_file.FORMAT, __version__, revision, database.name, CLOCK.now_ms(), secret_id(secret)
                )
            )
            if not settings.secret_key:
                for one in all_keys(secret):
                    writer.write_secret(one)
            for name in CERTIFICATE_FILES:
                path = settings.data_dir / name
                if path.exists():
                    writer.write_file(backup_file.BackupFile(name, path.read_bytes()))
            books, archived = database.read(_write_rows, writer)
            # After the rows: a file is stored before its row refers to it, so none that a row refers to is missing.
            asyncio.run(_write_files(build_object_store(settings), writer, archived, images=not options.no_pictures))
            pictures = writer.finish()
    _report(f"{sum(books.rows.values())} rows, {pictures} images, customers have ${short_dollars(books.posted)}")


def _report(text: str) -> None:
    """Print on standard error, because standard output may be the backup itself."""
    sys.stderr.write(text + "\n")


@contextmanager
def _target(name: str) -> Iterator[IO[bytes]]:
    """Open the file to write. It appears under its name only once it is complete, readable by its owner only."""
    if name == "-":
        yield sys.stdout.buffer
        return
    path = Path(name)
    if path.exists():
        raise SettingsError(f"{path} exists already, and a backup overwrites nothing; choose another name")
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb", opener=private_opener) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def _write_rows(connection: Connection, writer: backup_file.BackupWriter) -> tuple[backup_file.BackupTotals, list[str]]:
    """Write all rows of one moment. Return their totals, and the files of archived days that they refer to."""
    counts = dict.fromkeys(backup_file.table_names(), 0)
    with connection.snapshot():
        for chunk in backup_file.dump_rows(connection):
            counts[chunk.table] += len(chunk.rows)
            writer.write_rows(chunk)
        books = backup_file.BackupTotals(counts, *backup_file.customer_totals(connection))
        archived = [path for day in archived_days(connection) for path in paths_of(connection, day)]
    writer.write_totals(books)
    return books, archived


async def _write_files(
    objects: ObjectStore, writer: backup_file.BackupWriter, archived: list[str], *, images: bool
) -> None:
    for path in archived:
        writer.write_archive_file(path, await objects.get_file(path))
    if not images:
        return
    async for key in objects.list_older(_FOREVER_MS):
        try:
            writer.write_image(key, await objects.get(key))
        except ObjectMissing:
            # Deleted by retention since it was listed.
            continue


# ── restore ─────────────────────────────────────────────────────────────────────────────────────────────


def restore(settings: Settings, options: argparse.Namespace) -> int:
    """Restore into an empty database; return 1 if the ledger does not add up afterwards."""
    from minitoolai.http.serving.server import exclusive_data_dir

    url = database_url(settings)
    with ExitStack() as stack:
        try:
            file = sys.stdin.buffer if options.file == "-" else stack.enter_context(open(options.file, "rb"))
        except OSError as error:
            raise SettingsError(f"cannot read {options.file}: {error.strerror or error}") from error
        if not settings.database_url:
            # Released after the connections are closed.
            stack.enter_context(exclusive_data_dir(settings.data_dir))
            stack.enter_context(exclusive_database(Path(url.removeprefix(SQLITE))))
        database = stack.enter_context(closing(open_database(url, serving=False)))
        found = backup_file.read_parts(file)
        head = next(found)
        assert isinstance(head, backup_file.BackupHeader), "the first piece is checked to be one"
        _check_target(database, url, head)
        migrate(url, head.revision)
        secret, books = _read_rows(settings, database, found, head)
        migrate(url)
        pictures = asyncio.run(_read_files(build_object_store(settings), found))
        broken = database.read(broken_invariants)
    say(f"{sum(books.rows.values())} rows, {pictures} images, customers have ${short_dollars(books.posted)}")
    for name, wrong in broken.items():
        say(f"BROKEN: {name}: {wrong}")
    if not broken:
        say(f"{len(INVARIANTS)} invariants hold")
    present = existing_secret_keys(settings)
    if secret is None and (present is None or secret_id(present) != head.secret_id):
        say(
            f"the backup was taken under another secret ({head.secret_id}), so its keys and links are not valid here; "
            "set its MINITOOLAI_SECRET_KEY before you serve"
        )
    return 1 if broken else 0


def _check_target(database: Database, url: str, head: backup_file.BackupHeader) -> None:
    """Refuse a target that cannot take this backup, before anything is changed."""
    if head.revision > newest_revision():
        raise StoreError(
            f"this backup was made by a newer MiniToolAI ({head.version}); install that version or a later one"
        )
    if has_tables(database) and (head.revision, current_revision(url)) != (newest_revision(), newest_revision()):
        raise StoreError(f"{database.where} has tables of another version; restore into a database without any")


def _read_rows(
    settings: Settings, database: Database, found: Iterator[backup_file.BackupPart], head: backup_file.BackupHeader
) -> tuple[bytes | None, backup_file.BackupTotals]:
    """Load all rows in one transaction, or none."""
    secret: bytes | None = None
    previous: list[bytes] = []
    certificate: list[backup_file.BackupFile] = []
    with closing(database.connect()) as connection, connection.transaction():
        if head.revision == newest_revision():
            backup_file.clear_seed_rows(connection)
        for piece in found:
            if isinstance(piece, bytes):
                if secret is None:
                    _check_secret(settings, piece)
                    secret = piece
                else:
                    previous.append(piece)
            elif isinstance(piece, backup_file.BackupFile):
                certificate.append(_checked(piece))
            elif isinstance(piece, backup_file.RowChunk):
                backup_file.insert_rows(connection, piece)
            elif isinstance(piece, backup_file.BackupTotals):
                _check_books(connection, piece)
                if database.is_shared:
                    backup_file.reset_sequences(connection)
                if secret is not None:
                    write_secret(settings.data_dir / "secret.key", secret)
                    for one in previous:
                        write_secret(settings.data_dir / f"secret-{secret_id(one)}.key", one)
                _write_certificate(settings, certificate)
                return secret, piece
    raise StoreError("the backup is incomplete: its totals are missing")


def _checked(file: backup_file.BackupFile) -> backup_file.BackupFile:
    """Refuse any other file: its name would decide where it is written."""
    if file.name not in CERTIFICATE_FILES:
        raise StoreError(f"this file is not a MiniToolAI backup: it contains {file.name[:80]!r}")
    return file


def _write_certificate(settings: Settings, files: list[backup_file.BackupFile]) -> None:
    """Write the certificate and its key, unless there is one: a key must stay with its certificate."""
    if not any((settings.data_dir / name).exists() for name in CERTIFICATE_FILES):
        for file in files:
            write_secret(settings.data_dir / file.name, file.data)


def _check_books(connection: Connection, books: backup_file.BackupTotals) -> None:
    if backup_file.count_rows(connection, books.rows) != books.rows or backup_file.customer_totals(connection) != (
        books.posted,
        books.held,
    ):
        raise StoreError("the restored rows differ from the totals in the backup; nothing was restored")


def _check_secret(settings: Settings, secret: bytes) -> None:
    path = settings.data_dir / "secret.key"
    if settings.secret_key and settings.secret_key.encode() != secret:
        raise SettingsError(
            "the backup contains its own secret, and MINITOOLAI_SECRET_KEY differs: keys made under the first would "
            "not be valid; unset MINITOOLAI_SECRET_KEY"
        )
    if path.exists() and path.read_bytes() != secret:
        raise SettingsError(f"{path} differs from the secret in the backup; move it away, or choose --data-dir")


async def _read_files(objects: ObjectStore, found: Iterator[backup_file.BackupPart]) -> int:
    pictures = archived = 0
    for piece in found:
        if isinstance(piece, backup_file.ArchiveFile):
            await objects.put_file(piece.path, piece.data)
            archived += 1
        elif isinstance(piece, tuple):
            key, png = piece
            try:
                is_whole = await objects.put(job_of(key), png) == key
            except ValueError as error:
                raise StoreError(f"{key[:100]!r} is not the name of an image") from error
            if not is_whole:
                raise StoreError(f"image {key} differs from the one that was backed up")
            pictures += 1
        elif isinstance(piece, backup_file.BackupFooter) and (piece.pictures, piece.archived) != (pictures, archived):
            raise StoreError(
                f"{piece.pictures} images and {piece.archived} archived files were backed up, but {pictures} and "
                f"{archived} were found"
            )
    return pictures
