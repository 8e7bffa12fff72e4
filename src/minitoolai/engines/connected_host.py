"""A host of a child on another machine. Commands and events share one connection; when it closes, the child ends."""

from __future__ import annotations

import asyncio
import logging
import socket
from asyncio import StreamReader, StreamWriter
from typing import Any

from minitoolai.engines.child_process import FRAME_HEADER, to_frame
from minitoolai.engines.host import HostClient
from minitoolai.engines.supervision import Supervised

log = logging.getLogger(__name__)

#: Connect within this time.
CONNECT_S = 10.0


async def connect(host: str, port: int) -> tuple[StreamReader, StreamWriter]:
    """Connect to an IP address. Raises OSError, TimeoutError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        async with asyncio.timeout(CONNECT_S):
            await asyncio.get_running_loop().sock_connect(connection, (host, port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        connection.close()
        raise
    return await asyncio.open_connection(sock=connection)


class ConnectedHost(Supervised):
    """An `EngineHost` whose child is behind a connection. Subclasses find the child, connect, and say how it ended."""

    is_background = False
    is_remote = True
    #: The process ID on the other machine, if it is known.
    pid: int | None = None

    def __init__(self, name: str, client: HostClient, rows: int) -> None:
        super().__init__(name)
        self._client, self._rows = client, rows
        #: Reads events until the child ends, and returns how it ended, for the log.
        self._reader: asyncio.Task[str] | None = None
        self._writer: StreamWriter | None = None

    @property
    def capacity(self) -> int:
        return self._rows if self.is_up else 0

    def send(self, command: Any) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(to_frame(command))

    def kill(self) -> None:
        """Kill a child that hangs."""
        raise NotImplementedError

    @property
    def _target(self) -> str:
        """Return what `kill` ends, for the log."""
        raise NotImplementedError

    async def _read(self, stream: StreamReader) -> None:
        """Pass events on until the connection ends."""
        read, on_event = stream.readexactly, self._client.on_event
        try:
            while True:
                header = await read(FRAME_HEADER.size)
                on_event(await read(FRAME_HEADER.unpack(header)[0]))
        except (asyncio.IncompleteReadError, OSError):
            return

    async def _wait_for_end(self) -> str | None:
        reader = self._reader
        if reader is None:
            return None
        while not reader.done():
            await asyncio.wait([reader], timeout=self._client.check_every_s)
            if not reader.done() and (reason := self._client.why_hung()) is not None:
                log.error("%s hangs (%s): killing %s", self.name, reason, self._target)
                self.kill()
        return reader.result()

    async def _release(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.transport.abort()
