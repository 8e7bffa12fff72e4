"""A llama.cpp server for other machines: it listens on the address of its machine, and asks for a key.

Run as `python -m minitoolai.engines.chat.llama.placed_child` beside a worker, or on a machine of its cluster.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import msgspec

from minitoolai.engines.chat.llama.server import server_parameters
from minitoolai.engines.child_process import enter_child, read_frame, to_frame
from minitoolai.engines.servers import LoadServer, ServedAt, own_address


def main() -> None:
    """Load the model, tell the address, and wait for the end of standard input."""
    out = enter_child()
    frame = read_frame(sys.stdin.buffer)
    if frame is None:
        return
    command = msgspec.msgpack.decode(frame, type=LoadServer)
    server, reply = _start(command.settings | {"key": command.secret, "host": own_address()})
    out.write(to_frame(reply))
    out.flush()
    while server is not None and read_frame(sys.stdin.buffer) is not None:
        pass
    # There is nothing to save, so do not wait for llama.cpp's threads.
    os._exit(0)


def _start(settings: dict[str, Any]) -> tuple[Any, ServedAt]:
    if not Path(settings["path"]).is_file():
        return None, ServedAt(error=f"no file {settings['path']} on its machine")
    try:
        import xllamacpp

        server = xllamacpp.Server(server_parameters(xllamacpp, settings))
    except (ImportError, RuntimeError) as error:
        return None, ServedAt(error=f"{type(error).__name__}: {error}"[:300])
    return server, ServedAt(server.listening_address)


if __name__ == "__main__":
    main()
