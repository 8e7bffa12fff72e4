"""The command line. Every command works beside a running server, which sees its change within a second."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from minitoolai import __version__
from minitoolai.cli import key_options
from minitoolai.core.errors import CatalogError, ServiceError, SettingsError, StoreError

EXAMPLES = """examples:
  minitoolai serve --demo                          a server, an account with $5, a key, and a curl line to paste
  minitoolai account create ann@example.com --credit 5.00
  minitoolai key create ann@example.com --name laptop
  minitoolai credit grant ann@example.com 20.00 --reason "invoice 17"
  minitoolai voucher create 10.00 --count 20       codes to hand out, each good once
  minitoolai draw "a red apple" -o apple.png       a picture by the embedded model
  minitoolai audit                                 exit status 1 if the books do not add up

Every setting is a variable MINITOOLAI_*; see docs/reference/settings.md."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 done, 1 refused or broken, 2 wrong usage."""
    options = _parser().parse_args(arguments)
    try:
        sys.exit(options.run(options) or 0)
    except (CatalogError, ServiceError, SettingsError, StoreError) as error:
        sys.stderr.write(f"minitoolai: {error}\n")
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="minitoolai",
        description="An AI API that anyone can run and resell.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"minitoolai {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _serve(commands)
    _worker(commands)
    _account(commands)
    _key(commands)
    _credit(commands)
    _voucher(commands)
    _draw(commands)
    _simple(commands, "balance", "print what an account has", "balance", ("email", "e-mail address of the account"))
    _simple(commands, "models", "what is offered, by which engine, ready or why not", "cli.models.models")
    _simple(commands, "audit", "check every invariant of the books; exit 1 and rows if any breaks", "audit")
    _simple(commands, "migrate", "bring the database to the newest schema", "migrate")
    _backup(commands)
    _secret(commands)
    _doctor(commands)
    _margin(commands)
    return parser


Commands = argparse._SubParsersAction  # the standard library has no public name for it


def _add(
    commands: Commands[argparse.ArgumentParser], name: str, about: str, function: str, example: str = ""
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=about,
        description=about[0].upper() + about[1:] + ".",
        epilog=f"example:\n  minitoolai {example}" if example else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data-dir", type=Path, help="folder of database, images and models (MINITOOLAI_DATA_DIR; data)"
    )
    parser.set_defaults(run=lambda options: _call(function, options))
    return parser


def _call(function: str, options: argparse.Namespace) -> int | None:
    # Imported here, so that --help and a wrong option answer at once.
    from minitoolai.observability import logging as logs
    from minitoolai.settings import load_settings

    overrides = {name: getattr(options, name, None) for name in ("data_dir", "host", "port", "workers", "device")}
    settings = load_settings(**overrides)
    logs.set_up(settings)
    module, _, name = function.rpartition(".")
    result: int | None = getattr(import_module(f"minitoolai.{module or 'cli.common'}"), name)(settings, options)
    return result


def _group(
    commands: Commands[argparse.ArgumentParser], name: str, about: str, example: str
) -> Commands[argparse.ArgumentParser]:
    parser = commands.add_parser(
        name,
        help=about,
        epilog=f"example:\n  minitoolai {name} {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser.add_subparsers(required=True, metavar="COMMAND")


def _simple(
    commands: Commands[argparse.ArgumentParser], name: str, about: str, function: str, *positional: tuple[str, str]
) -> None:
    parser = _add(commands, name, about, function, " ".join([name, *("ann@example.com" for _ in positional)]))
    for argument, meaning in positional:
        parser.add_argument(argument, help=meaning)


def _serve(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = _add(
        commands, "serve", "API and engines, in one process or several", "cli.serve.serve", "serve --demo --port 8000"
    )
    parser.add_argument("--host", help="address to listen on (MINITOOLAI_HOST; 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on, 0 for a free one (MINITOOLAI_PORT; 8000)")
    parser.add_argument("--workers", type=int, help="processes; more than 1 needs PostgreSQL (MINITOOLAI_WORKERS; 1)")
    parser.add_argument("--listening", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--demo", action="store_true", help="make an account with $5 and print a key and a curl line")


def _worker(commands: Commands[argparse.ArgumentParser]) -> None:
    about = "draw image jobs beside a server, on this or any other machine (PostgreSQL only)"
    parser = _add(commands, "worker", about, "cli.serve.worker", "worker --device cuda:0")
    parser.add_argument("--kinds", default="image", help="what to work on, separated by commas (image)")
    parser.add_argument("--device", help="where your image models run, like cuda:0 or cpu (MINITOOLAI_DEVICE)")


def _account(commands: Commands[argparse.ArgumentParser]) -> None:
    group = _group(commands, "account", "make accounts", "create ann@example.com")
    parser = _add(group, "create", "make an account", "account_create", "account create ann@example.com --credit 5.00")
    parser.add_argument("email", help="e-mail address, the name of the account")
    parser.add_argument("--password-stdin", action="store_true", help="read its password from standard input")
    parser.add_argument("--credit", metavar="DOLLARS", help="credit it at once, like 5.00")
    parser.add_argument("--admin", action="store_true", help="let it see the admin pages of the portal")
    about = "everything that is known of a customer, as JSON on standard output"
    parser = _add(group, "export", about, "cli.accounts.export", "account export ann@example.com")
    parser.add_argument("email", help="e-mail address of the account")
    about = "forget the person behind an account; its books stay"
    parser = _add(group, "delete", about, "cli.accounts.delete", "account delete ann@example.com --yes")
    parser.add_argument("email", help="e-mail address of the account")
    parser.add_argument("--yes", action="store_true", help="it cannot be taken back")
    about = "let an account see the admin pages of the portal, or no longer"
    parser = _add(group, "admin", about, "cli.accounts.admin", "account admin ann@example.com")
    parser.add_argument("email", help="e-mail address of the account")
    parser.add_argument("--off", action="store_true", help="no longer")


def _key(commands: Commands[argparse.ArgumentParser]) -> None:
    group = _group(commands, "key", "make, list, replace and revoke keys", "create ann@example.com --name laptop")
    about = "make a key; printed once, alone on standard output"
    example = "key create ann@example.com --name laptop --budget-daily 2.00 --expires 90d"
    key_options.add_create(_add(group, "create", about, "cli.accounts.create", example))
    about = "list the keys of an account, with what they may do and what they have spent"
    parser = _add(group, "list", about, "cli.accounts.list_", "key list ann@example.com")
    parser.add_argument("email", help="e-mail address of the account")
    about = "make a key that takes the place of another, with its rules and budgets; both live for a while"
    key_options.add_rotate(_add(group, "rotate", about, "cli.accounts.rotate", "key rotate 0aB1cD2eF3gH --grace 7d"))
    about = "revoke a key; a running server refuses it within a second"
    parser = _add(group, "revoke", about, "cli.accounts.revoke", "key revoke 0aB1cD2eF3gH")
    parser.add_argument("id", help="the twelve characters after sk-mt-, or the whole key")


def _credit(commands: Commands[argparse.ArgumentParser]) -> None:
    group = _group(commands, "credit", "credit accounts", "grant ann@example.com 20.00")
    parser = _add(group, "grant", "credit an account", "credit_grant", "credit grant ann@example.com 20.00")
    parser.add_argument("email", help="e-mail address of the account")
    parser.add_argument("amount", metavar="DOLLARS", help="like 20.00")
    parser.add_argument("--reason", default="granted on the command line", help="kept with the transfer")
    parser.add_argument("--reference", help="credit only once for this reference, such as an invoice number")


def _voucher(commands: Commands[argparse.ArgumentParser]) -> None:
    group = _group(commands, "voucher", "codes that are worth money once", "create 10.00 --count 20")
    about = "make vouchers; their codes are printed once, alone on standard output"
    parser = _add(group, "create", about, "cli.accounts.create_vouchers", "voucher create 10.00 --count 20 --note fair")
    parser.add_argument("amount", metavar="DOLLARS", help="what each is worth, like 10.00")
    parser.add_argument("--count", type=int, default=1, help="how many (1)")
    parser.add_argument("--days", type=int, help="how long they are good (for ever)")
    parser.add_argument("--note", help="what they are for; shown in the list only")
    _add(
        group,
        "list",
        "every voucher: the end of its code and what became of it",
        "cli.accounts.listing",
        "voucher list",
    )


def _secret(commands: Commands[argparse.ArgumentParser]) -> None:
    group = _group(commands, "secret", "change the secret under which keys are hashed and links signed", "rotate")
    about = "draw a new secret; what was made under the old one goes on working"
    _add(group, "rotate", about, "cli.backup.rotate", "secret rotate")
    _add(group, "list", "the names of the secrets, never the secrets", "cli.backup.list_", "secret list")
    about = "forget a secret of before: keys, vouchers and links made under it work no longer"
    parser = _add(group, "forget", about, "cli.backup.forget", "secret forget 0a1b2c3d")
    parser.add_argument("id", help="its name, as secret list prints it")


def _backup(commands: Commands[argparse.ArgumentParser]) -> None:
    about = "books, keys, secret and pictures of one moment into one file, beside a running server"
    parser = _add(commands, "backup", about, "cli.backup.backup", "backup /backups/2026-11-21.tar.gz")
    parser.add_argument("file", help="a file that is not there yet, or - for standard output; keep it secret")
    parser.add_argument("--no-pictures", action="store_true", help="leave the pictures out")
    about = "bring a backup back into an empty database, and check the books"
    parser = _add(commands, "restore", about, "cli.backup.restore", "restore /backups/2026-11-21.tar.gz --data-dir new")
    parser.add_argument("file", help="what backup wrote, or - for standard input")


def _doctor(commands: Commands[argparse.ArgumentParser]) -> None:
    about = "check settings, catalog, database and engines, with a remedy for each fault"
    parser = _add(commands, "doctor", about, "cli.doctor.doctor", "doctor --offline")
    parser.add_argument(
        "--offline", action="store_true", help="do not ask each upstream for one token, which costs one"
    )


def _margin(commands: Commands[argparse.ArgumentParser]) -> None:
    about = "what was sold and what the engines charged for it, by model and engine"
    parser = _add(commands, "margin", about, "cli.models.margin", "margin --days 7")
    parser.add_argument("--days", type=int, default=30, help="how far to look back (30)")


def _draw(commands: Commands[argparse.ArgumentParser]) -> None:
    from minitoolai.cli import draw as drawing

    parser = commands.add_parser(
        "draw",
        help="draw one picture with the embedded model, without a server",
        description="Draw one picture with the embedded model: no server, no account, no charge.",
        epilog='example:\n  minitoolai draw "a red apple" -o apple.png --scheduler "DPM++ 2M Karras" --steps 8',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    drawing.add_arguments(parser)
    parser.set_defaults(run=drawing.draw)
