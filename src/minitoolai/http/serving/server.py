"""Run uvicorn with graceful shutdown, on a socket opened here or inherited.

Also raises the limit on open files and locks the data folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import math
import os
import resource
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

import uvicorn

from minitoolai.accounts.keys import trusted_proxies
from minitoolai.core.errors import SettingsError
from minitoolai.core.private_files import private_opener
from minitoolai.http.serving.connections import Connections
from minitoolai.http.serving.protocol import LimitedProtocol
from minitoolai.http.types import App
from minitoolai.settings import Settings

BACKLOG = 2048
#: File descriptors to ask for: a stream needs two, and the process some more.
WANTED_FILES = 65_536


def allow_many_connections() -> None:
    """Raise the soft limit on open files as far as allowed. Many systems start with 1024, enough for 500 streams."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_FILES if hard == resource.RLIM_INFINITY else min(WANTED_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # Some systems refuse values below their hard limit. Then the old limit stays.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def bind_socket(settings: Settings) -> socket.socket:
    """Listen on the host and port of the settings. `reuse_port` allows another server on the same port.

    Raises SettingsError if the port is in use.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server(
            (settings.host, settings.port), family=family, backlog=BACKLOG, reuse_port=settings.reuse_port
        )
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}; "
            "another program may be using the port. Choose another --host or --port"
        ) from None


def inherit_socket(fd: int) -> socket.socket:
    """Return the socket that the parent process bound."""
    listening = socket.socket(fileno=fd)
    listening.set_inheritable(False)
    return listening


# ── uvicorn ───────────────────────────────────────────────────────────────────────────────────────────────


def run_server(
    app: App,
    settings: Settings,
    *,
    drain: Callable[[float], Coroutine[Any, Any, None]],
    on_listening: Callable[[int], None],
    on_hangup: Callable[[], None] | None,
    listening: socket.socket | None,
) -> None:
    """Run uvicorn until a signal, then shut down gracefully.

    `drain(seconds)` ends the responses in flight. `on_listening(port)` is called once requests are accepted,
    `on_hangup()` for each SIGHUP; None ignores that signal.
    """
    connections = Connections(settings.connections_per_address, trusted_proxies(settings))
    make_protocol: Any = partial(LimitedProtocol, connections)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=make_protocol,
        ws="none",
        lifespan="on",
        access_log=settings.access_log,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        # `drain` ends responses earlier, and sends the reason to each caller; this is a fallback.
        timeout_graceful_shutdown=math.ceil(settings.drain_timeout_s) + 5,
        backlog=BACKLOG,
    )
    server = GracefulServer(config, connections, lambda: drain(settings.drain_timeout_s), on_listening, on_hangup)
    server.run([listening] if listening is not None else None)


class GracefulServer(uvicorn.Server):
    """uvicorn with our graceful shutdown: let streams finish, then exit with status 0."""

    def __init__(
        self,
        config: uvicorn.Config,
        connections: Connections,
        drain: Callable[[], Coroutine[Any, Any, None]],
        on_listening: Callable[[int], None],
        on_hangup: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(config)
        self._connections = connections
        self._drain = drain
        self._on_listening = on_listening
        self._on_hangup = on_hangup
        self._has_terminal = os.isatty(0)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Shut down gracefully on SIGTERM, SIGINT and a closed terminal; a second signal does not wait for streams."""
        loop = asyncio.get_running_loop()
        handlers = {signal.SIGTERM: self._stop, signal.SIGINT: self._stop}
        if self._on_hangup is not None:
            handlers[signal.SIGHUP] = self._hang_up
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    def _hang_up(self) -> None:
        """Stop if the terminal was closed. Otherwise SIGHUP was sent on purpose, to read configuration again."""
        if self._has_terminal and not os.isatty(0):
            self._stop()
        elif self._on_hangup is not None:
            self._on_hangup()

    def _stop(self) -> None:
        if self.should_exit:
            self.force_exit = True
            return
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening and close idle connections, while responses in flight are drained.

        Draining refuses new requests, but only once this method awaits: by then no new connection is accepted.
        """
        self._draining = asyncio.ensure_future(self._drain())
        await super().shutdown(sockets)
        self._watching.cancel()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then report the port. Raise SettingsError if it cannot be listened on."""
        self._watching = asyncio.ensure_future(self._connections.run())
        try:
            await super().startup(sockets)
        except SystemExit:
            if self.lifespan.should_exit:
                raise
            where = f"{self.config.host}:{self.config.port}"
            raise SettingsError(
                f"cannot listen on {where}: another program may be using the port. Choose another --host or --port"
            ) from None
        for server in getattr(self, "servers", []):
            for bound in server.sockets:
                self._on_listening(bound.getsockname()[1])
                return


@contextlib.contextmanager
def exclusive_data_dir(data_dir: Path) -> Iterator[None]:
    """Hold an exclusive lock on the data folder. The kernel releases it however the process ends.

    Raise SettingsError if another process holds it.
    """
    file: IO[str] = open(data_dir / "serve.lock", "w", opener=private_opener)  # noqa: SIM115 - closed below
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SettingsError(
            f"another minitoolai serve is already using {data_dir}, and two would corrupt its ledger; "
            "stop it, or choose another --data-dir"
        ) from None
    try:
        yield
    finally:
        file.close()
