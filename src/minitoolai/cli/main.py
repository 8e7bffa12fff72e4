"""The `minitoolai` command: parse the arguments and run one command.

Every command works beside a running server, which sees its changes within a second. The modules of commands import
heavy libraries only inside the command that needs them, so that short commands take a quarter of a second.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from minitoolai import __version__
from minitoolai.cli import accounts, catalog, database, draw, fetch, invoices, keys, mark, models, plans, serve
from minitoolai.cli.operations import archive, audit, backup, doctor, secrets
from minitoolai.core.errors import CatalogError, ServiceError, SettingsError, StoreError
from minitoolai.engines.fetching import FetchError

EXAMPLES = """examples:
  minitoolai serve --demo                          server, account with $5, key, and a curl command to paste
  minitoolai account create ann@example.com --credit 5.00
  minitoolai key create ann@example.com --name laptop
  minitoolai credit grant ann@example.com 20.00 --reason "invoice 17"
  minitoolai voucher create 10.00 --count 20       codes to hand out, each redeemable once
  minitoolai draw "a red apple" -o apple.png       an image by the embedded model
  minitoolai audit                                 exit status 1 if the books do not add up

Every setting is an environment variable MINITOOLAI_*; see docs/reference/settings.md."""

#: What adds each command to the parser, in the order of --help.
COMMANDS = (
    serve.add_serve,
    serve.add_worker,
    accounts.add_account,
    keys.add_key,
    accounts.add_credit,
    accounts.add_voucher,
    plans.add_plan,
    plans.add_coupon,
    invoices.add_invoice,
    draw.add_draw,
    mark.add_mark,
    accounts.add_balance,
    models.add_models,
    catalog.add_catalog,
    fetch.add_fetch,
    audit.add_audit,
    audit.add_usage,
    database.add_migrate,
    backup.add_backup,
    backup.add_restore,
    archive.add_archive,
    secrets.add_secret,
    doctor.add_doctor,
    models.add_margin,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit. Status: 0 success, 1 refused or failed, 2 wrong usage, 130 interrupted."""
    options = build_parser().parse_args(arguments)
    try:
        sys.exit(options.run(options) or 0)
    except (CatalogError, FetchError, ServiceError, SettingsError, StoreError) as error:
        sys.stderr.write(f"minitoolai: {error}\n")
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with all commands."""
    parser = argparse.ArgumentParser(
        prog="minitoolai",
        description="An AI API that anyone can run and resell.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"minitoolai {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for add in COMMANDS:
        add(commands)
    return parser
