"""What works and yet is not as it should be: the warnings of `minitoolai doctor`, each with its remedy."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from minitoolai.cli.common import read
from minitoolai.observability.metrics_port import is_loopback
from minitoolai.settings import Settings
from minitoolai.storage.durability import weak_settings

GB = 10**9
LEAST_FREE = 2 * GB


def doubts(settings: Settings) -> Iterator[str]:
    """`subject: what; the remedy`, for settings whose parts all work."""
    free = shutil.disk_usage(settings.data_dir).free
    if free < LEAST_FREE:
        yield (
            f"disk: {free / GB:.1f} GB are free in {settings.data_dir.resolve()}; make room, or move it: "
            "on a full disk nothing can be sold"
        )
    if not is_loopback(settings.host) and not settings.public_url:
        yield (
            f"address: {settings.host} can be reached by others, and links in answers and letters would name "
            "this machine's own address; set MINITOOLAI_PUBLIC_URL=https://your.name"
        )
    if settings.database_url and not settings.secret_key:
        yield (
            f"secret: it lies in {settings.data_dir.resolve()}, and another machine on these books would draw its own "
            "and know none of the keys; set the same MINITOOLAI_SECRET_KEY everywhere"
        )
    if settings.database_url:
        for name, risk in read(settings, weak_settings).items():
            yield f"PostgreSQL: {name} is off, so {risk}; set {name} = on in postgresql.conf and reload it"
