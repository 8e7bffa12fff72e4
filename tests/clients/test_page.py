"""docs/reference/compatibility.md lists the clients and abilities that are tested, and none of them failed."""

from __future__ import annotations

import pytest
from tools.compatibility import PAGE, page

from tests.clients.catalog import ABILITIES, CLIENTS
from tests.clients.test_clients import PAIRS


def rows(text: str) -> list[list[str]]:
    """Return the cells of each line of the first table."""
    table = text.split("\n\n")[3]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_the_page_agrees_with_the_tests_for_every_client() -> None:
    head, _, *lines = rows(PAGE.read_text("utf-8"))
    assert head == ["client", *ABILITIES, "version"], "run: python -m tools.compatibility"
    told = {(cells[0], ability): cell for cells in lines for ability, cell in zip(ABILITIES, cells[1:-1], strict=True)}
    expected = {
        (client.title, ability): "yes" if (name, ability) in PAIRS else "–"
        for name, client in CLIENTS.items()
        for ability in ABILITIES
    }
    assert told == expected, "run: python -m tools.compatibility"
    assert all(cells[-1] for cells in lines)


@pytest.mark.acceptance
def test_a_failure_is_not_reported_as_a_success() -> None:
    found = {f"{name}-{ability}": True for name, ability in PAIRS} | {"curl-retry": False}
    (line,) = [cells for cells in rows(page(found)) if cells[0] == "curl"]
    assert line[1 + list(ABILITIES).index("retry")] == "**no**"
    assert line.count("**no**") == 1
