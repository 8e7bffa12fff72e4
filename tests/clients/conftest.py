"""Provide one server and one upstream for all clients. Each client's program runs once; its tests read the output."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest

from minitoolai.storage.tables.ledger import broken_invariants
from tests.clients.catalog import CLIENTS, run
from tests.support import catalogs, manners
from tests.support.server import Account, ServerProcess
from tests.support.upstream import Exchange, Upstream

#: The least that a client must wait before a retry.
RETRY_AFTER_S = 1


class Moody:
    """An upstream that refuses the first request with each text, and the model `limited` always."""

    def __init__(self) -> None:
        self._met: set[str] = set()

    async def __call__(self, exchange: Exchange) -> None:
        """Respond to one request."""
        word = str(exchange.body["messages"][-1]["content"])
        is_new = word not in self._met
        self._met.add(word)
        if exchange.body["model"] == "limited" or is_new:
            await manners.refuse(429, retry_after=str(RETRY_AFTER_S))(exchange)
        else:
            await manners.answer()(exchange)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Serve fake engines, and two models behind a moody upstream."""
    with Upstream(Moody()) as moody:
        catalog = catalogs.FAKE + "".join(
            catalogs.upstream(name, moody.base_url, "retries = 0") for name in ("busy", "limited")
        )
        with ServerProcess(tmp_path_factory.mktemp("clients"), catalog=catalog) as running:
            yield running
            assert running.read(broken_invariants) == {}


@dataclass(frozen=True)
class Shown:
    """The results of one client by ability, and the account that paid."""

    results: dict[str, Any]
    account: Account
    complaints: str


@pytest.fixture(scope="session")
def shown(server: ServerProcess) -> Callable[[str], Shown]:
    """Return a function that runs a client once."""

    @cache
    def show(name: str) -> Shown:
        account, poor = server.account(), server.account(credit=None)
        done = run(CLIENTS[name], base_url=server.url + "/v1", key=account.key, poor_key=poor.key, nonce=name)
        results: dict[str, Any] = {}
        for line in done.stdout.splitlines():
            if line.startswith("{"):
                results |= json.loads(line)
        return Shown(results, account, done.stderr[-4000:])

    return show
