"""Options of `minitoolai key …`: what a key may do, in words of the command line. Imports nothing heavy."""

from __future__ import annotations

import argparse

RULES = (
    ("--budget-daily", "DOLLARS", "what it may spend a day (UTC), like 5.00"),
    ("--budget-monthly", "DOLLARS", "what it may spend a calendar month (UTC)"),
    ("--budget-total", "DOLLARS", "what it may spend in all"),
    ("--expires", "WHEN", "when it ends: 30d, 12h, or a date or time like 2027-01-31 (UTC)"),
    ("--models", "NAMES", "the models that it may use, with commas between them"),
    ("--allow-ip", "NETWORKS", "the addresses or networks it may be used from, like 192.0.2.7,10.0.0.0/8"),
    ("--requests-per-minute", "N", "requests a minute, beside those of its account"),
    ("--tokens-per-minute", "N", "tokens a minute"),
    ("--dollars-per-minute", "DOLLARS", "dollars a minute"),
    ("--streams", "N", "answers under way at once"),
)


def add_create(parser: argparse.ArgumentParser) -> None:
    """What `key create` takes."""
    parser.add_argument("email", help="e-mail address of the account")
    parser.add_argument("--name", default="default", help="what the key is for (default)")
    for option, metavar, about in RULES:
        parser.add_argument(option, metavar=metavar, help=about)


def add_rotate(parser: argparse.ArgumentParser) -> None:
    """What `key rotate` takes."""
    parser.add_argument("id", help="the twelve characters after sk-mt-, or the whole key")
    parser.add_argument(
        "--grace", metavar="TIME", default="24h", help="how long the old one lives on: 24h, 7d, 0m (24h)"
    )
