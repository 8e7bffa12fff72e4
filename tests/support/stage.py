"""Some stand-in upstreams and a server in front of them, for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

from tests.support import manners
from tests.support.server import ServerProcess
from tests.support.upstream import Upstream


class UpstreamsBehindServer:
    """A subclass says how many upstreams there are, and writes the catalog that names them."""

    COUNT: int

    def __init__(self, upstreams: list[Upstream]) -> None:
        self.upstreams = upstreams
        self.server: ServerProcess

    @property
    def a(self) -> Upstream:
        return self.upstreams[0]

    @property
    def b(self) -> Upstream:
        return self.upstreams[1]

    @property
    def c(self) -> Upstream:
        return self.upstreams[2]

    def catalog(self) -> str:
        """Return the catalog of the server."""
        raise NotImplementedError

    @classmethod
    @contextmanager
    def running(cls, folder: Path) -> Iterator[Self]:
        """Run the upstreams and the server for the block."""
        with ExitStack() as stack:
            made = cls([stack.enter_context(Upstream(manners.answer())) for _ in range(cls.COUNT)])
            made.server = stack.enter_context(ServerProcess(folder, catalog=made.catalog()))
            yield made

    @contextmanager
    def reset(self) -> Iterator[Self]:
        """Let the upstreams answer as usual, and forget what they saw. Check the books after the block."""
        for upstream in self.upstreams:
            upstream.behave = manners.answer()
            upstream.seen.clear()
        yield self
        self.server.check_settled()
