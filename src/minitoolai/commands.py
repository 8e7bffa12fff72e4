"""What each command does: open the database, call a service, print."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TypeVar

from minitoolai.core.catalog import ChatModel, EmbeddingModel, ImageModel
from minitoolai.core.clock import SystemClock
from minitoolai.core.errors import InvalidRequest, SettingsError
from minitoolai.core.money import format_dollars, parse_dollars
from minitoolai.core.voices import SpeechModel
from minitoolai.listing import image_lines, purchase_lines
from minitoolai.painter_wiring import make_image_engines
from minitoolai.services import accounts as account_service
from minitoolai.services import payments
from minitoolai.services.passwords import hash_password
from minitoolai.settings import Settings
from minitoolai.storage import accounts, users
from minitoolai.storage import audit as audit_rows
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.migrate import migrate as run_migrations
from minitoolai.storage.opening import has_tables, open_database
from minitoolai.wiring import Services, build, database_url, pepper

T = TypeVar("T")
DEMO_EMAIL = "demo@example.com"
DEMO_CREDIT = "5.00"
EVERY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 - read, not bound
CLOCK = SystemClock()


def say(text: str) -> None:
    """One line on standard output."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def prepare(settings: Settings) -> str:
    """Where the database is, now at the newest schema and with its system accounts."""
    run_migrations(database_url(settings))
    write(settings, lambda connection: accounts.ensure_system_accounts(connection, CLOCK.now_ms()))
    with _opened(settings) as database:
        return database.where


def prepare_existing(settings: Settings) -> None:
    """The same where there are books already; SettingsError rather than new ones in a folder that was mistyped."""
    with _opened(settings) as database:
        _check_tables(settings, database)
    prepare(settings)


@contextmanager
def _opened(settings: Settings) -> Iterator[Database]:
    database = open_database(database_url(settings), serving=False)
    try:
        yield database
    finally:
        database.close()


@contextmanager
def _connected(settings: Settings) -> Iterator[Connection]:
    with _opened(settings) as database, closing(database.connect()) as connection:
        yield connection


def write(settings: Settings, change: Callable[[Connection], T]) -> T:
    """Run a change in a transaction of its own; a server beside us goes on."""
    with _connected(settings) as connection, connection.transaction():
        return change(connection)


def read(settings: Settings, question: Callable[[Connection], T]) -> T:
    """Ask the database, which must exist."""
    with _opened(settings) as database:
        _check_tables(settings, database)
        return database.read(question)


def _check_tables(settings: Settings, database: Database) -> None:
    if has_tables(database):
        return
    lack, other = (
        (f"no table in {database.where}", "another MINITOOLAI_DATABASE_URL")
        if database.is_shared
        else (f"no database in {settings.data_dir}", "--data-dir")
    )
    raise SettingsError(f"there is {lack}; run minitoolai migrate, or choose {other}")


# ── accounts ──────────────────────────────────────────────────────────────────────────────────────────────


def account_create(settings: Settings, options: argparse.Namespace) -> None:
    """account create EMAIL [--password-stdin] [--credit DOLLARS] [--admin]"""
    email = account_service.check_email(options.email)
    credit = dollars(options.credit) if options.credit else None
    password = sys.stdin.readline().rstrip("\n") if options.password_stdin else None
    password_hash = hash_password(password) if password is not None else None
    prepare(settings)

    def change(connection: Connection) -> int:
        account_id = accounts.create_account(connection, email, password_hash, CLOCK.now_ms())
        if credit:
            payments.grant(connection, CLOCK, account_id, credit, reason="credit at creation")
        if options.admin:
            users.set_admin(connection, account_id, True)
        return account_id

    account_id = write(settings, change)
    say(f"account {account_id} {email} ${format_dollars(credit or 0)}")


def credit_grant(settings: Settings, options: argparse.Namespace) -> None:
    """credit grant EMAIL DOLLARS [--reason R] [--reference R]"""
    amount = dollars(options.amount)

    def change(connection: Connection) -> str:
        account_id = account_service.require_account(connection, options.email)
        done = payments.grant(connection, CLOCK, account_id, amount, reason=options.reason, reference=options.reference)
        note = " (this reference was credited before; nothing changed)" if done.repeated else ""
        return f"balance ${format_dollars(done.posted)}{note}"

    prepare_existing(settings)
    say(write(settings, change))


def balance(settings: Settings, options: argparse.Namespace) -> None:
    """balance EMAIL"""
    money = read(settings, lambda c: accounts.balance_of(c, account_service.require_account(c, options.email)))
    parts = {"balance": money.posted, "held": money.held, "available": money.available}
    say("  ".join(f"{name} ${format_dollars(nano)}" for name, nano in parts.items()))


def dollars(text: str) -> int:
    """An option's dollars as nano-dollars; InvalidRequest in words."""
    try:
        return parse_dollars(text)
    except ValueError as error:
        raise InvalidRequest(str(error), param="amount") from None


# ── operations ────────────────────────────────────────────────────────────────────────────────────────────


def audit(settings: Settings, _: argparse.Namespace) -> int:
    """audit: exit 1 and rows if any invariant breaks."""
    broken = read(settings, audit_rows.broken_invariants)
    for name, rows in broken.items():
        say(f"BROKEN: {name}")
        for row in rows:
            say("  " + "  ".join(str(value) for value in row))
    if not broken:
        say(f"{len(audit_rows.INVARIANTS)} invariants hold")
    return 1 if broken else 0


def migrate(settings: Settings, _: argparse.Namespace) -> None:
    """migrate"""
    before, after = run_migrations(database_url(settings))
    prepare(settings)
    say(f"already at {after}" if before == after else f"migrated from {before or 'nothing'} to {after}")


def models(settings: Settings, _: argparse.Namespace) -> None:
    """models: what is offered, by which engine, ready or why not."""
    prepare(settings)
    services = built(settings)
    for offer in services.reports.offers():
        if isinstance(offer.model, ImageModel):
            # Below: each of them needs a file of its own.
            continue
        state = f"ready    {offer.engine}" if offer.engine else f"MISSING  {offer.why_not}"
        say(f"{offer.model.name:<16} {_kind_and_price(offer.model)}   {state}")
        for line in purchase_lines(services.reports.catalog, offer.model):
            say(line)
    for engine in services.engines.values():
        if why := engine.why_blind():
            say(f"  {engine.name} sees no pictures: {why}")
    for model in services.speech.catalog.speech.values():
        voices: dict[str, list[str]] = {}
        for voice in model.voices:
            why_not = services.speech.why_not(voice)
            state = f"MISSING  {voice.engine}: {why_not}" if why_not else f"ready    {voice.engine}, {voice.language}"
            voices.setdefault(state, []).append(voice.id)
        for state, names in voices.items():
            say(f"  voice {', '.join(names)}: {state}")
    catalog = services.reports.catalog
    engines = make_image_engines(catalog, settings, services.http)
    for line in image_lines(catalog, lambda name, model: engines[name].why_not_ready(model.name)):
        say(line)


def _kind_and_price(model: ChatModel | SpeechModel) -> str:
    if isinstance(model, SpeechModel):
        return f"speech  $/1M characters: {_dollars_per_million(model.price)}"
    if isinstance(model, EmbeddingModel):
        return f"embedding  $/1M in: {_dollars_per_million(model.price_input)}"
    return f"chat  $/1M in, out: {_dollars_per_million(model.price_input)}  {_dollars_per_million(model.price_output)}"


def _dollars_per_million(price: int) -> str:
    return format_dollars(price * 1_000_000)[:-6].rjust(9)


def built(settings: Settings) -> Services:
    """Everything a server would hold, not started."""

    async def make() -> Services:
        return build(settings)

    return asyncio.run(make())


# ── serving ───────────────────────────────────────────────────────────────────────────────────────────────


def serve(settings: Settings, options: argparse.Namespace) -> int:
    """serve [--host H] [--port P] [--data-dir D] [--workers N] [--demo]"""
    from minitoolai import app, listening, supervisor

    listening.allow_many_connections()
    if options.listening is not None:
        # One of several, started by the supervisor: it has prepared everything.
        supervisor.belong_to_supervisor()
        app.serve(build(settings), ready=lambda _: say("ready"), listening=listening.inherited(options.listening))
        return 0
    _check_shared(settings)
    prepare(settings)
    key = _demo_key(settings) if options.demo else None

    def ready(port: int) -> None:
        host = "127.0.0.1" if settings.host in EVERY_ADDRESS else settings.host
        url = settings.public_url or f"http://{host}:{port}"
        say(f"MiniToolAI answers at {url}")
        if key:
            _print_demo(url, key)

    if settings.workers > 1:
        bound = listening.bind(settings)
        port = bound.getsockname()[1]
        return supervisor.Supervisor(settings, bound, sys.argv[1:]).run(lambda: ready(port))
    app.serve(build(settings), ready=ready, listening=listening.bind(settings) if settings.reuse_port else None)
    return 0


def worker(settings: Settings, options: argparse.Namespace) -> None:
    """worker [--kinds image] [--device D] [--data-dir D]"""
    from minitoolai import worker as drawing

    drawing.check(settings, options.kinds)
    prepare(settings)
    drawing.work(settings, ready=lambda where: say(f"MiniToolAI draws for {where}"))


def _check_shared(settings: Settings) -> None:
    """SettingsError for what only a database with many writers can do."""
    if settings.workers < 1:
        raise SettingsError("MINITOOLAI_WORKERS=0 is wrong: at least one process must serve")
    wanted = f"{settings.workers} workers" if settings.workers > 1 else "MINITOOLAI_REUSE_PORT"
    if (settings.workers > 1 or settings.reuse_port) and not settings.database_url:
        raise SettingsError(
            f"{wanted} cannot work on SQLite, where one process writes; set MINITOOLAI_DATABASE_URL to a PostgreSQL "
            "database, or serve with one worker"
        )


def _demo_key(settings: Settings) -> str:
    """A new key for the demo account, which is made where it is not there yet."""
    secret = pepper(settings)

    def change(connection: Connection) -> str:
        account_id = accounts.find_account(connection, DEMO_EMAIL)
        if account_id is None:
            account_id = accounts.create_account(connection, DEMO_EMAIL, None, CLOCK.now_ms())
            payments.grant(connection, CLOCK, account_id, parse_dollars(DEMO_CREDIT), reason="demo credit")
        key = account_service.make_key(account_id, "demo", secret, CLOCK)
        accounts.insert_key(connection, key.row)
        return key.text

    return write(settings, change)


def _print_demo(url: str, key: str) -> None:
    body = '{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Which planet has the most moons?"}]}'
    say(f"\nThe demo account has a key (shown once):\n\n{key}\n\nPaste this into another terminal:\n")
    say(
        f"curl -N {url}/api/chat-completions/ -H 'Authorization: Bearer {key}' "
        f"-H 'Content-Type: application/json' -d '{body}'\n"
    )
    say(f"The portal is at {url}/: sign up there; without a mail server the link of its letter appears right here.\n")
