"""`minitoolai serve` and `worker`: everything is prepared, then it runs until a signal."""

from __future__ import annotations

import argparse
import sys

from minitoolai.commands import CLOCK, prepare, say, write
from minitoolai.core.errors import SettingsError
from minitoolai.core.money import parse_dollars
from minitoolai.places import pepper
from minitoolai.services import accounts as account_service
from minitoolai.services import payments
from minitoolai.settings import Settings
from minitoolai.storage import accounts
from minitoolai.storage.database import Connection
from minitoolai.wiring import build

DEMO_EMAIL = "demo@example.com"
DEMO_CREDIT = "5.00"
EVERY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 - read, not bound


def serve(settings: Settings, options: argparse.Namespace) -> int:
    """serve [--host H] [--port P] [--data-dir D] [--workers N] [--demo]"""
    from minitoolai import app, hangups, listening, supervisor

    hangups.ignore_hangups()
    _check_shared(settings)
    listening.allow_many_connections()
    if options.listening is not None:
        # One of several, started by the supervisor: it has prepared everything.
        supervisor.belong_to_supervisor()
        app.serve(build(settings), ready=lambda _: say("ready"), listening=listening.inherited(options.listening))
        return 0
    prepare(settings)

    def ready(port: int) -> None:
        host = "127.0.0.1" if settings.host in EVERY_ADDRESS else settings.host
        url = settings.public_url or f"http://{host}:{port}"
        say(f"MiniToolAI answers at {url}")
        if options.demo:
            # Made only now: a server that could not start leaves none behind.
            _print_demo(url, _demo_key(settings))

    if settings.workers > 1:
        bound = listening.bind(settings)
        port = bound.getsockname()[1]
        return supervisor.Supervisor(settings, bound, sys.argv[1:]).run(lambda: ready(port))
    app.serve(build(settings), ready=ready, listening=listening.bind(settings) if settings.reuse_port else None)
    return 0


def worker(settings: Settings, options: argparse.Namespace) -> None:
    """worker [--kinds image] [--device D] [--data-dir D]"""
    from minitoolai import hangups
    from minitoolai import worker as drawing

    hangups.ignore_hangups()
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
