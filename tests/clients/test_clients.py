"""Popular clients work with a changed base URL. docs/reference/compatibility.md is generated from these tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.clients.catalog import ABILITIES, CLIENTS, Client
from tests.clients.conftest import RETRY_AFTER_S, Shown
from tests.support import manners
from tests.support.waiting import eventually

TEXT = "".join(f"token-{i} " for i in range(16))
PAIRS = [(name, ability) for name, client in CLIENTS.items() for ability in client.abilities]


@pytest.mark.acceptance
@pytest.mark.parametrize(("name", "ability"), PAIRS, ids=[f"{name}-{ability}" for name, ability in PAIRS])
def test_a_client_can(shown: Callable[[str], Shown], name: str, ability: str) -> None:
    found = shown(name)
    result = found.results.get(ability)
    assert result is not None, found.complaints
    assert "failed" not in result, f"{result}\n{found.complaints}"
    CHECKS[ability](result, found, CLIENTS[name])


def check_text(result: Any, found: Shown, client: Client) -> None:
    """Compare words only: `llm` and PHP trim their output."""
    assert result["text"].split() == TEXT.split()
    assert result.get("tokens", 16) == 16
    assert result.get("name", "get_weather") == "get_weather"


def check_stream(result: Any, found: Shown, client: Client) -> None:
    check_text(result, found, client)
    assert result.get("pieces", 16) >= 2


def check_tools(result: Any, found: Shown, client: Client) -> None:
    assert (result["name"], result["arguments"]) == ("get_weather", {"city": "token-0"})
    check_text(result, found, client)


def check_schema(result: Any, found: Shown, client: Client) -> None:
    assert result == {"planet": "token-0"}


def check_errors(result: Any, found: Shown, client: Client) -> None:
    assert result == client.errors


def check_retry(result: Any, found: Shown, client: Client) -> None:
    assert result["text"].split() == "".join(manners.WORDS).split()
    assert result["waited_s"] >= RETRY_AFTER_S


def check_headers(result: Any, found: Shown, client: Client) -> None:
    row = found.account.server.generation(result["generation"])
    assert (row["state"], row["output_units"]) == ("succeeded", 16)


def check_cancel(result: Any, found: Shown, client: Client) -> None:
    assert result["pieces"] >= 2
    question = "SELECT state, cost FROM generations WHERE account_id = ? AND model = 'endless'"

    def ends() -> list[Any]:
        rows: list[Any] = found.account.server.read(lambda c: c.execute(question, (found.account.id,)))
        return rows

    eventually(lambda: ends() and ends()[0][0] == "cancelled")
    ((_, cost),) = ends()
    # Some tokens are charged, not the three thousand of the whole response.
    assert 0 < cost < 1000 * 8003


def check_models(result: Any, found: Shown, client: Client) -> None:
    assert result["found"]


def check_embeddings(result: Any, found: Shown, client: Client) -> None:
    """Two equal texts have equal vectors, another text has another one, and each has length 1."""
    one, other, same = result["vectors"]
    assert one == same != other
    assert sum(number**2 for number in one) == pytest.approx(1)


CHECKS = {
    "answer": check_text,
    "stream": check_stream,
    "tools": check_tools,
    "schema": check_schema,
    "errors": check_errors,
    "retry": check_retry,
    "headers": check_headers,
    "cancel": check_cancel,
    "models": check_models,
    "responses": check_text,
    "completions": check_text,
    "embeddings": check_embeddings,
}


def test_every_ability_is_checked() -> None:
    assert set(CHECKS) == set(ABILITIES)
