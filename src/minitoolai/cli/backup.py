"""`minitoolai backup` and `restore`: everything of one moment into one file, beside a running server, and back.

The file is the same for both databases: what was taken of SQLite can be restored into PostgreSQL, and the reverse.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from pathlib import Path
from typing import IO

from minitoolai import __version__
from minitoolai.cli.common import CLOCK, say
from minitoolai.core.clock import random_bytes
from minitoolai.core.errors import NotFound, ObjectMissing, SettingsError, StoreError
from minitoolai.core.money import format_dollars
from minitoolai.core.signing import all_keys, secret_id
from minitoolai.paths import database_url, load_secret_keys
from minitoolai.settings import Settings
from minitoolai.storage import backup as backup_file
from minitoolai.storage import ledger
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.object_store import ObjectStore, build_object_store, job_of
from minitoolai.storage.opening import current_revision, has_tables, migrate, newest_revision, open_database

# (merged from secret_files) `minitoolai secret …`: a new secret for what is made from now on; what was made before goes on working.


def keep_secret(path: Path, secret: bytes) -> None:
    """Write a secret that only its owner may read, durably; one that is there already stays."""
    try:
        with open(path, "xb", opener=lambda text, flags: os.open(text, flags, 0o600)) as file:
            file.write(secret)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        return


def rotate(settings: Settings, _: argparse.Namespace) -> None:
    """secret rotate: the file's secret is kept as a previous one, and a new one takes its place."""
    if settings.secret_key:
        raise SettingsError(
            "the secret is MINITOOLAI_SECRET_KEY: set it to a new one, and put the old one before what is in "
            "MINITOOLAI_SECRET_KEY_PREVIOUS, with a comma"
        )
    database_url(settings)
    old, path = load_secret_keys(settings), settings.data_dir / "secret.key"
    # Kept first: a crash in between leaves one secret under two names.
    keep_secret(settings.data_dir / f"secret-{secret_id(old)}.key", old)
    new, draft = random_bytes(32), path.with_name("secret.key.new")
    draft.unlink(missing_ok=True)
    keep_secret(draft, new)
    draft.replace(path)
    say(f"{secret_id(new)} signs from now on; {secret_id(old)} is still known. Restart every server and worker")


def list_(settings: Settings, _: argparse.Namespace) -> None:
    """secret list: names of secrets, never the secrets."""
    ring = load_secret_keys(settings)
    say(f"{secret_id(ring)}  signs")
    for secret in ring.previous:
        say(f"{secret_id(secret)}  still known")


def forget(settings: Settings, options: argparse.Namespace) -> None:
    """secret forget ID: keys, vouchers and links made under it work no longer."""
    path = settings.data_dir / f"secret-{options.id}.key"
    if path.name not in {found.name for found in settings.data_dir.glob("secret-*.key")}:
        raise NotFound(f"there is no previous secret {options.id}; minitoolai secret list says which there are")
    path.unlink()
    say(f"{options.id} is forgotten; restart every server and worker")


_FOREVER_MS = 2**62


def backup(settings: Settings, options: argparse.Namespace) -> None:
    """backup FILE [--no-pictures]: the last line says what is in it."""
    url = database_url(settings)
    with closing(open_database(url, serving=False)) as database:
        if not has_tables(database):
            raise SettingsError(f"there is no table in {database.where}: nothing to back up; choose --data-dir")
        with _target(options.file) as file:
            writer = backup_file.BackupWriter(file)
            secret = load_secret_keys(settings)
            revision = current_revision(url) or newest_revision()
            writer.write_header(
                backup_file.BackupHeader(
                    backup_file.FORMAT, __version__, revision, database.name, CLOCK.now_ms(), secret_id(secret)
                )
            )
            if not settings.secret_key:
                for one in all_keys(secret):
                    writer.write_secret(one)
            books = database.read(_write_rows, writer)
            # After the rows: a picture is kept before its row says so, so that none that is promised is missing.
            if not options.no_pictures:
                asyncio.run(_write_pictures(build_object_store(settings), writer))
            pictures = writer.finish()
    _tell(f"{sum(books.rows.values())} rows, {pictures} pictures, customers have ${format_dollars(books.posted)}")


def _tell(text: str) -> None:
    """On standard error: standard output may be the backup itself."""
    sys.stderr.write(text + "\n")


@contextmanager
def _target(name: str) -> Iterator[IO[bytes]]:
    """Where the backup goes: whole under its name, or not at all. Nobody else may read it."""
    if name == "-":
        yield sys.stdout.buffer
        return
    path = Path(name)
    if path.exists():
        raise SettingsError(f"{path} is there already; a backup overwrites nothing: choose another name")
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb", opener=lambda text, flags: os.open(text, flags, 0o600)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def _write_rows(connection: Connection, writer: backup_file.BackupWriter) -> backup_file.BackupTotals:
    counts = dict.fromkeys(backup_file.table_names(), 0)
    with connection.snapshot():
        for chunk in backup_file.dump_rows(connection):
            counts[chunk.table] += len(chunk.rows)
            writer.write_rows(chunk)
        books = backup_file.BackupTotals(counts, *backup_file.customer_totals(connection))
    writer.write_totals(books)
    return books


async def _write_pictures(objects: ObjectStore, writer: backup_file.BackupWriter) -> None:
    async for key in objects.list_older(_FOREVER_MS):
        try:
            writer.write_image(key, await objects.get(key))
        except ObjectMissing:
            # Its time was over between the list and now.
            continue


# ── back ──────────────────────────────────────────────────────────────────────────────────────────────────


def restore(settings: Settings, options: argparse.Namespace) -> int:
    """restore FILE: into an empty database; exit 1 where the books do not add up afterwards."""
    from minitoolai.app import only_server

    url = database_url(settings)
    with ExitStack() as stack:
        try:
            file = sys.stdin.buffer if options.file == "-" else stack.enter_context(open(options.file, "rb"))
        except OSError as error:
            raise SettingsError(f"cannot read {options.file}: {error.strerror or error}") from error
        database = stack.enter_context(closing(open_database(url, serving=False)))
        stack.enter_context(nullcontext() if database.is_shared else only_server(settings.data_dir))
        found = backup_file.read_parts(file)
        head = next(found)
        assert isinstance(head, backup_file.BackupHeader), "the first piece is checked to be one"
        _check_target(database, url, head)
        migrate(url, head.revision)
        secret, books = _read_rows(settings, database, found, head)
        migrate(url)
        pictures = asyncio.run(_read_pictures(build_object_store(settings), found))
        broken = database.read(ledger.broken_invariants)
    say(f"{sum(books.rows.values())} rows, {pictures} pictures, customers have ${format_dollars(books.posted)}")
    for name, wrong in broken.items():
        say(f"BROKEN: {name}: {wrong}")
    if not broken:
        say(f"{len(ledger.INVARIANTS)} invariants hold")
    if secret is None and secret_id(load_secret_keys(settings)) != head.secret_id:
        say(
            f"the backup was taken under another secret ({head.secret_id}): no key and no link made there is known "
            "here; set its MINITOOLAI_SECRET_KEY before you serve"
        )
    return 1 if broken else 0


def _check_target(database: Database, url: str, head: backup_file.BackupHeader) -> None:
    """StoreError, SettingsError before anything is touched."""
    if head.revision > newest_revision():
        raise StoreError(
            f"this backup was taken by a newer MiniToolAI ({head.version}): install that one or a later one"
        )
    if has_tables(database) and (head.revision, current_revision(url)) != (newest_revision(), newest_revision()):
        raise StoreError(f"{database.where} has tables of another version; restore into a database without any")


def _read_rows(
    settings: Settings, database: Database, found: Iterator[backup_file.BackupPart], head: backup_file.BackupHeader
) -> tuple[bytes | None, backup_file.BackupTotals]:
    """One transaction: all rows that were promised, or none."""
    secret: bytes | None = None
    previous: list[bytes] = []
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
            elif isinstance(piece, backup_file.RowChunk):
                backup_file.insert_rows(connection, piece)
            elif isinstance(piece, backup_file.BackupTotals):
                _check_books(connection, piece)
                if database.is_shared:
                    backup_file.reset_sequences(connection)
                if secret is not None:
                    keep_secret(settings.data_dir / "secret.key", secret)
                    for one in previous:
                        keep_secret(settings.data_dir / f"secret-{secret_id(one)}.key", one)
                return secret, piece
    raise StoreError("the backup has no books")


def _check_books(connection: Connection, books: backup_file.BackupTotals) -> None:
    if backup_file.count_rows(connection, books.rows) != books.rows or backup_file.customer_totals(connection) != (
        books.posted,
        books.held,
    ):
        raise StoreError("what came out of the backup is not what went in; nothing was restored")


def _check_secret(settings: Settings, secret: bytes) -> None:
    path = settings.data_dir / "secret.key"
    if settings.secret_key and settings.secret_key.encode() != secret:
        raise SettingsError(
            "the backup brings its own secret, and MINITOOLAI_SECRET_KEY is another: keys made under the first would "
            "not be known; unset it"
        )
    if path.exists() and path.read_bytes() != secret:
        raise SettingsError(f"{path} is another secret than the backup's; move it away, or choose --data-dir")


async def _read_pictures(objects: ObjectStore, found: Iterator[backup_file.BackupPart]) -> int:
    pictures = 0
    for piece in found:
        if isinstance(piece, tuple):
            key, png = piece
            try:
                is_whole = await objects.put(job_of(key), png) == key
            except ValueError as error:
                raise StoreError(f"{key[:100]!r} is no picture's name") from error
            if not is_whole:
                raise StoreError(f"the picture {key} is not what it was when it was backed up")
            pictures += 1
        elif isinstance(piece, backup_file.BackupFooter) and piece.pictures != pictures:
            raise StoreError(f"{piece.pictures} pictures were backed up, and {pictures} came out")
    return pictures
