"""Voices for servers on other machines: each connection that knows the secret gets a child process with voices.

Run as `python -m minitoolai.engines.speech.outlet` beside a worker, or on a machine of its cluster. The child is the
same program as beside a server (child.py), with the connection as its standard input and output.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import socket
import subprocess
import sys

import msgspec

from minitoolai.engines.child_process import child_environment, enter_child, read_frame, to_frame
from minitoolai.engines.servers import LoadServer, ServedAt, accept, notice_silence, own_address

log = logging.getLogger(__name__)

#: Refuse more connections than this.
MAX_CHILDREN = 64
#: Look this often whether a child or its connection has ended. A child that does not notice is killed after the latter.
LOOK_EVERY_S, END_S = 0.2, 2.0


async def serve(listener: socket.socket, secret: bytes) -> None:
    """Give each connection a child, until standard input ends."""
    listener.setblocking(False)
    # The worker sends no more, so that anything to read is the end.
    asyncio.get_running_loop().add_reader(0, lambda: os._exit(0))
    children: set[asyncio.Task[None]] = set()
    while True:
        connection = await accept(listener, secret)
        if len(children) >= MAX_CHILDREN:
            connection.close()
            continue
        task = asyncio.create_task(_speak(connection))
        children.add(task)
        task.add_done_callback(children.discard)


async def _speak(connection: socket.socket) -> None:
    """Run a child on this connection, as long as both live."""
    with connection:
        notice_silence(connection)
        connection.setblocking(True)
        child = subprocess.Popen(  # noqa: ASYNC220 - this very Python; it takes a millisecond
            [sys.executable, "-m", "minitoolai.engines.speech.child"],
            stdin=connection.fileno(),
            stdout=connection.fileno(),
            stderr=subprocess.DEVNULL,
            env=child_environment(),
        )
        closed = select.poll()
        closed.register(connection, select.POLLRDHUP)
        try:
            while child.poll() is None and not closed.poll(0):
                await asyncio.sleep(LOOK_EVERY_S)
            give_up_s = asyncio.get_running_loop().time() + END_S
            while child.poll() is None and asyncio.get_running_loop().time() < give_up_s:
                await asyncio.sleep(LOOK_EVERY_S)
        finally:
            child.kill()
            child.wait()


def main() -> None:
    """Listen, tell the worker where, and serve."""
    out = enter_child()
    frame = read_frame(sys.stdin.buffer)
    if frame is None:
        return
    command = msgspec.msgpack.decode(frame, type=LoadServer)
    with socket.create_server((own_address(), 0)) as listener:
        host, port = listener.getsockname()[:2]
        out.write(to_frame(ServedAt(f"{host}:{port}")))
        out.flush()
        asyncio.run(serve(listener, command.secret.encode()))


if __name__ == "__main__":
    main()
