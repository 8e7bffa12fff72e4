"""The socket that requests come in by: bound here where several processes take them from it."""

from __future__ import annotations

import contextlib
import resource
import socket

from minitoolai.core.errors import SettingsError
from minitoolai.settings import Settings

BACKLOG = 2048
#: File descriptors that a process may want: two a stream, and then some.
FILES = 65_536


def allow_many_connections() -> None:
    """Raise the soft limit on open files as far as we may: many systems begin with 1024, which is 500 streams."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # A system may refuse what it says is allowed; then the old limit stands.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def bind(settings: Settings) -> socket.socket:
    """Listen on the host and port of the settings; with `reuse_port`, beside another server that does the same.

    SettingsError where another program is there.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server(
            (settings.host, settings.port), family=family, backlog=BACKLOG, reuse_port=settings.reuse_port
        )
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}; "
            "is another program there? Choose another --host or --port"
        ) from None


def inherited(fd: int) -> socket.socket:
    """The socket that our parent bound."""
    made = socket.socket(fileno=fd)
    made.set_inheritable(False)
    return made
