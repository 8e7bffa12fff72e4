"""Mutation test of the ledger rules: the properties must fail for nearly every wrong version of them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from minitoolai.ledger import rules
from tests.support.ledger_run import random_walk
from tests.support.mutants import EQUIVALENT, Mutant, load, mutants

SOURCE = Path(rules.__file__).read_text("utf-8")
#: A mutant that passes this many random walks has survived. Of an excused one it is known, so a few show it.
WALKS, WALKS_OF_EXCUSED = 96, 8


def _survives(mutant: Mutant) -> bool:
    # A mutant that cannot be compiled would count as killed without any test: it is an error.
    wrong = load(mutant.tree, "wrong_ledger").decide
    try:
        for seed in range(WALKS_OF_EXCUSED if mutant.place in EQUIVALENT else WALKS):
            random_walk(wrong, seed=seed, batches=40)
    except Exception:  # noqa: BLE001 - a wrong ledger may fail in any way
        return False
    return True


def test_the_ledger_passes_every_random_walk() -> None:
    for seed in range(WALKS):
        random_walk(rules.decide, seed=seed, batches=40)


def test_every_excused_mutant_exists() -> None:
    """An excuse whose line was changed would otherwise excuse nothing, or something else, without notice."""
    places = {mutant.place for mutant in mutants(SOURCE)}
    assert EQUIVALENT.keys() - places == set()


def test_a_mutant_is_placed_by_function_line_and_change() -> None:
    source = "def total(a, b):\n    return a + b\n"
    (mutant,) = [mutant for mutant in mutants(source) if mutant.change == "Sub"]
    assert mutant.place == ("total", "return a + b", "Sub")
    assert ast.unparse(mutant.tree).endswith("return a - b")


def test_a_mutant_that_cannot_be_compiled_is_an_error_and_not_killed() -> None:
    broken = Mutant("f", "line", "change", "def f(): pass\n", 1, lambda node: setattr(node, "name", 7))
    with pytest.raises(TypeError):
        _survives(broken)


#: All of them take more than a minute, so the quick tests try every tenth.
@pytest.mark.parametrize("every", [10, pytest.param(1, marks=pytest.mark.acceptance)])
def test_at_least_95_percent_of_the_mutants_of_the_ledger_are_killed(
    every: int, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = list(mutants(SOURCE))[::every]
    survivors = [mutant for mutant in tried if _survives(mutant)]
    unexplained = [mutant.place for mutant in survivors if mutant.place not in EQUIVALENT]
    killed = len(tried) - len(survivors)
    with capsys.disabled():
        print(f"\nledger: {killed} of {len(tried)} mutants killed; survivors: {[m.place for m in survivors] or 'none'}")
    assert len(tried) > 80 / every
    # A sample may contain every equivalent mutant, so its rate counts only the others.
    if every == 1:
        assert killed >= 0.95 * len(tried)
    else:
        assert killed >= 0.95 * (len(tried) - len(survivors) + len(unexplained))
    assert len(unexplained) <= 0.01 * len(tried), unexplained
