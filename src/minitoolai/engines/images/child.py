"""The child process that draws. Its parent sends orders on standard input and reads news on standard output.

Run as `python -m minitoolai.engines.images.child`. Pictures with the same batch key share a canvas and its model calls;
orders are read between two calls, so that pictures join and leave while others are half drawn.
"""

from __future__ import annotations

import os
import queue
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from importlib import import_module
from typing import IO, Any

import msgspec

from minitoolai.core.errors import EngineRefused
from minitoolai.engines.child_process import die_with_parent
from minitoolai.engines.protocols import Batch, BatchEngine, FailedImage, ImageRequest

HEAD = struct.Struct("<I")
#: Chats come first: a picture is a matter of seconds, a token is not.
NICENESS = 10
HEARTBEAT_S = 1.0


class LoadEngine(msgspec.Struct, frozen=True, tag="load"):
    """First of all: which module draws, made from which plain data."""

    module: str
    config: dict[str, Any]


class Add(msgspec.Struct, frozen=True, tag="add"):
    """Begin a picture of a model of the catalog, on the canvas of this key."""

    id: int
    model: str
    key: str
    request: ImageRequest


class Remove(msgspec.Struct, frozen=True, tag="remove"):
    """Nobody waits for it any more."""

    id: int


Order = LoadEngine | Add | Remove


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    """The answer to Load: ready, or why not."""

    error: str | None = None


class Heartbeat(msgspec.Struct, frozen=True, tag="heartbeat"):
    """The process lives; `calls` model calls are behind it."""

    calls: int


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """A picture has come along."""

    id: int
    step: int
    steps: int


class Drawn(msgspec.Struct, frozen=True, tag="drawn"):
    """A picture is finished."""

    id: int
    png: bytes
    model: str


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """A picture will not be finished. `refused`: the request is to blame."""

    id: int
    error: str
    refused: bool = False


News = Loaded | Heartbeat | Progress | Drawn | Failed
Tell = Callable[[News], None]


class BatchLoop:
    """The canvases and what is on them. One model call at a time, canvas by canvas."""

    def __init__(self, engine: BatchEngine, tell: Tell) -> None:
        self._engine = engine
        self._tell = tell
        self._canvases: dict[str, Batch] = {}
        #: What is on each canvas, by ticket.
        self._orders: dict[str, dict[int, Add]] = {}
        #: Pictures of a canvas that broke: drawn again one at a time, until the one at fault is found.
        self._suspects: deque[Add] = deque()
        self.calls = 0

    def __len__(self) -> int:
        return sum(map(len, self._orders.values())) + len(self._suspects)

    def carry_out(self, order: Order) -> None:
        """Add or remove a picture; one that cannot begin has failed alone."""
        if isinstance(order, Add):
            self._add(order, order.key)
        elif isinstance(order, Remove):
            self._suspects = deque(suspect for suspect in self._suspects if suspect.id != order.id)
            for key, orders in list(self._orders.items()):
                for ticket in [ticket for ticket, add in orders.items() if add.id == order.id]:
                    self._canvases[key].remove(ticket)
                    self._forget(key, ticket)

    def step(self) -> None:
        """One model call for each canvas."""
        for key in list(self._canvases):
            try:
                ended = self._canvases[key].step()
            except Exception as fault:  # noqa: BLE001 - whatever an engine raises is news of its pictures
                self._retry_individually(key, fault)
                continue
            finally:
                self.calls += 1
            for image in ended:
                add = self._orders[key][image.ticket]
                self._forget(key, image.ticket)
                if isinstance(image, FailedImage):
                    self._tell(Failed(add.id, image.error, image.refused))
                else:
                    self._tell(Drawn(add.id, image.png, image.model))
        if self._suspects and _ALONE not in self._canvases:
            self._add(self._suspects.popleft(), _ALONE)

    def _add(self, order: Add, key: str) -> None:
        def told(step: int, steps: int) -> None:
            self._tell(Progress(order.id, step, steps))

        try:
            if key not in self._canvases:
                self._canvases[key] = self._engine.open(order.model)
                self._orders[key] = {}
            ticket = self._canvases[key].add(order.request, told)
        except Exception as fault:  # noqa: BLE001 - as above
            if not self._orders.get(key):
                self._drop(key)
            self._tell(Failed(order.id, in_words(fault), refused=isinstance(fault, EngineRefused | ValueError)))
        else:
            self._orders[key][ticket] = order

    def _retry_individually(self, key: str, fault: Exception) -> None:
        """A canvas broke. Alone, a picture is to blame; of several, each gets another start by itself."""
        orders = list(self._orders[key].values())
        self._drop(key)
        if len(orders) > 1:
            self._suspects.extend(orders)
        else:
            self._tell(Failed(orders[0].id, in_words(fault), refused=isinstance(fault, EngineRefused)))

    def _forget(self, key: str, ticket: int) -> None:
        del self._orders[key][ticket]
        if not self._orders[key]:
            self._drop(key)

    def _drop(self, key: str) -> None:
        self._canvases.pop(key, None)
        self._orders.pop(key, None)


#: The canvas of suspects; no batch key is empty.
_ALONE = ""


def in_words(fault: Exception) -> str:
    """For whoever reads why there is no picture."""
    return f"{type(fault).__name__}: {fault}"[:300] if str(fault) else type(fault).__name__


def main() -> None:
    """Carry out orders until standard input ends."""
    die_with_parent()
    os.nice(NICENESS)
    # Only frames may go to standard output, whatever a library prints.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    lock = threading.Lock()

    def tell(news: News) -> None:
        with lock:
            out.write(to_frame(news))
            out.flush()

    orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
    threading.Thread(target=_read_orders, args=(sys.stdin.buffer, orders), daemon=True).start()
    first = orders.get()
    assert isinstance(first, LoadEngine), "the first order is to load"
    desk: list[BatchLoop] = []
    threading.Thread(target=_beat, args=(desk, tell), daemon=True).start()
    try:
        engine: BatchEngine = import_module(first.module).make_canvas_engine(first.config)
        engine.start()
    except Exception as fault:  # noqa: BLE001 - the parent says what is wrong
        tell(Loaded(in_words(fault)))
        os._exit(1)
    desk.append(BatchLoop(engine, tell))
    tell(Loaded())
    _work(desk[0], orders)


def _work(desk: BatchLoop, orders: queue.SimpleQueue[Order | None]) -> None:
    while True:
        while len(desk) == 0 or not orders.empty():
            order = orders.get()
            if order is None:
                # Nothing to save: leave without waiting for the threads of libraries.
                os._exit(0)
            desk.carry_out(order)
        desk.step()


def _read_orders(stream: IO[bytes], orders: queue.SimpleQueue[Order | None]) -> None:
    decode = msgspec.msgpack.Decoder(Order).decode
    while len(head := stream.read(HEAD.size)) == HEAD.size:
        orders.put(decode(stream.read(HEAD.unpack(head)[0])))
    orders.put(None)


def _beat(desk: list[BatchLoop], tell: Tell) -> None:
    """From the beginning: loading may take long, and looks no different from outside."""
    while True:
        tell(Heartbeat(desk[0].calls if desk else 0))
        time.sleep(HEARTBEAT_S)


def to_frame(message: Order | News) -> bytes:
    """A message with its length before it."""
    body = msgspec.msgpack.encode(message)
    return HEAD.pack(len(body)) + body


if __name__ == "__main__":
    main()
