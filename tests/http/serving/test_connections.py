"""How many connections an address may have, and who is not counted."""

from __future__ import annotations

import asyncio

import pytest

from minitoolai.http.serving.connections import BATCH, Connections


class Silent:
    """A connection that records when it was checked."""

    def __init__(self) -> None:
        self.checked: list[int] = []

    def check(self, now: int) -> None:
        self.checked.append(now)


class Broken:
    """A connection whose check fails."""

    def check(self, now: int) -> None:
        raise RuntimeError(f"at {now}")


def admitted(connections: Connections, *addresses: str) -> int:
    return sum(connections.add(Silent(), address) for address in addresses)


def test_an_address_has_so_many_connections_and_gets_a_new_one_for_each_that_closes() -> None:
    connections = Connections(2)
    first, second, third = Silent(), Silent(), Silent()
    assert connections.add(first, "198.51.102.7")
    assert connections.add(second, "198.51.102.7")
    assert not connections.add(third, "198.51.102.7")
    assert connections.add(Silent(), "198.51.102.8")
    # One that was refused frees no place.
    connections.discard(third, "198.51.102.7")
    assert not connections.add(third, "198.51.102.7")
    connections.discard(first, "198.51.102.7")
    connections.discard(first, "198.51.102.7")
    assert connections.add(third, "198.51.102.7")
    assert not connections.add(Silent(), "198.51.102.7")
    assert len(connections) == 3


def test_ipv6_addresses_count_by_their_network() -> None:
    connections = Connections(2)
    assert admitted(connections, *(f"2a01:4f8:1:2::{host:x}" for host in range(9))) == 2
    assert admitted(connections, "2a01:4f8:1:3::1") == 1
    assert admitted(connections, "::ffff:8.8.8.8", "8.8.8.8", "8.8.8.8") == 2


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "::1", "10.1.2.3", "172.17.0.1", "192.168.1.9", "fd00::1", "::ffff:10.0.0.1", "", "8.8.4.4"],
)
def test_proxies_and_the_network_of_the_operator_are_not_limited(address: str) -> None:
    connections = Connections(2, ["8.8.4.0/24", "2a01:4f8::/32"])
    assert admitted(connections, *[address] * 50) == 50


def test_without_a_limit_nobody_is_counted() -> None:
    assert admitted(Connections(0), *["8.8.8.8"] * 5000) == 5000


def test_every_connection_is_checked_at_every_tick() -> None:
    async def tick() -> list[Silent]:
        connections, all_of_them = Connections(), [Silent() for _ in range(BATCH * 2 + 1)]
        for connection in all_of_them:
            connections.add(connection, "127.0.0.1")
        await connections.tick()
        connections.discard(all_of_them[0], "127.0.0.1")
        connections.add(Broken(), "127.0.0.1")
        await connections.tick()
        return all_of_them

    first, *others = asyncio.run(tick())
    assert first.checked == [1]
    assert {tuple(connection.checked) for connection in others} == {(1, 2)}
