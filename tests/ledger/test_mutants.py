"""The properties themselves are tested: nearly every wrong version of the ledger must fail them."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from minitoolai.ledger import rules
from tests.support.ledger_run import random_walk
from tests.support.mutants import load, mutants

SOURCE = Path(rules.__file__).read_text("utf-8")
#: A mutant that lives through so many has survived.
WALKS = 24
_NO_ACCOUNT = "an account is always loaded with its holds, and of an account that is none there are no holds"
#: Slips that change nothing, and why. Any other that lives is a test that is missing.
EQUIVALENT = {
    "hold is None or account is None or hold.account_id != ask.ac: without part 2": _NO_ACCOUNT,
    "hold.budget_id is None or hold.budget_ms is None: And": "both are written together, or neither",
    "0 becomes 1": "no lease ends in the first millisecond of 1970; and a claim asks its hold, which is loaded",
    "1 becomes 2": "minus one of units or minus two, both are fewer than the least",
}


def _survives(tree: object, name: str) -> bool:
    try:
        wrong = load(tree, name).decide
        for seed in range(WALKS):
            random_walk(wrong, seed=seed, batches=40)
    except Exception:  # noqa: BLE001 - a wrong ledger may fail in any way
        return False
    return True


def test_the_right_ledger_survives_what_its_mutants_must_not() -> None:
    for seed in range(WALKS):
        random_walk(rules.decide, seed=seed, batches=40)


#: All of them take twenty seconds; here, every fifth.
@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.acceptance)])
def test_at_least_95_percent_of_the_mutants_of_the_ledger_are_killed(
    every: int, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = itertools.count(1)
    tried = itertools.islice(mutants(SOURCE), 0, None, every)
    fates = {f"{next(numbers)}. {what}": _survives(tree, "wrong_ledger") for what, tree in tried}
    survivors = [what for what, survived in fates.items() if survived]
    killed = len(fates) - len(survivors)
    unexplained = [what for what in survivors if what.split(": ", 1)[1] not in EQUIVALENT]
    with capsys.disabled():
        print(f"\nledger: {killed} of {len(fates)} mutants killed; survivors: {survivors or 'none'}")
    assert len(fates) > 80 / every
    # Chance may put all that change nothing into one sample; of the others none lives in any.
    assert killed >= 0.95 * len(fates) or every > 1
    assert len(unexplained) <= 0.01 * len(fates), unexplained
