"""The style of CONTRIBUTING.md, where a machine can see it: short files, said purposes, no swallowed errors."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LONGEST_FILE = {"src": 400, "tests": 600, "tools": 400, "bench": 400}
LONGEST_FUNCTION = 70
SOURCES = sorted((ROOT / "src").rglob("*.py"))
EVERYTHING = sorted(
    path
    for folder in ("src", "tests", "tools", "bench")
    for path in (ROOT / folder).rglob("*.py")
    if ".cache" not in path.parts
)
Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def public(tree: ast.Module) -> Iterator[Function | ast.ClassDef]:
    """What other modules may use: functions and classes at the top, and the methods of public classes."""
    for node in tree.body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from (n for n in node.body if isinstance(n, Function) and not n.name.startswith("_"))


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


@pytest.mark.parametrize("path", EVERYTHING, ids=name_of)
def test_a_file_is_short_and_says_what_it_is_for(path: Path) -> None:
    text = path.read_text("utf-8")
    assert text.count("\n") <= LONGEST_FILE[path.relative_to(ROOT).parts[0]]
    if text.strip():
        purpose = ast.get_docstring(ast.parse(text))
        assert purpose, "a module begins with a docstring"
        assert purpose.count("\n") < 26


def test_most_files_fit_on_a_few_screens() -> None:
    lengths = sorted(path.read_text("utf-8").count("\n") for path in SOURCES)
    assert lengths[len(lengths) * 8 // 10] <= 250


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_whatever_is_public_says_what_it_does(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    silent = [node.name for node in public(tree) if not ast.get_docstring(node) and not _is_said_elsewhere(node, tree)]
    assert silent == []


def _is_said_elsewhere(node: Function | ast.ClassDef, tree: ast.Module) -> bool:
    """In a class that says its purpose: a method of a few lines, or one that a protocol or library describes."""
    if not any(node in owner.body for owner in tree.body if isinstance(owner, ast.ClassDef)):
        return False
    is_short = (node.end_lineno or 0) - node.lineno < SHORT_METHOD
    return is_short or node.name in _documented_methods() or node.name in CALLBACKS


@cache
def _documented_methods() -> set[str]:
    trees = [ast.parse(path.read_text("utf-8")) for path in SOURCES]
    return {n.name for tree in trees for n in public(tree) if isinstance(n, Function) and ast.get_docstring(n)}


SHORT_METHOD = 8
#: asyncio.Protocol and httptools say what these are for.
CALLBACKS = {"data_received", "on_headers_complete", "on_message_complete"}


@pytest.mark.parametrize("path", [p for p in SOURCES if "versions" not in p.parts], ids=name_of)
def test_no_function_is_longer_than_a_screen(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    long = {
        f.name: (f.end_lineno or 0) - f.lineno
        for f in functions(tree)
        if (f.end_lineno or 0) - f.lineno >= LONGEST_FUNCTION
    }
    assert long == {}


def test_functions_are_short_at_the_median_and_at_the_ninetieth_percentile() -> None:
    lengths = sorted(
        (f.end_lineno or 0) - f.lineno + 1 for p in SOURCES for f in functions(ast.parse(p.read_text("utf-8")))
    )
    assert lengths[len(lengths) // 2] <= 12
    assert lengths[len(lengths) * 9 // 10] <= 35


@pytest.mark.parametrize("path", EVERYTHING, ids=name_of)
def test_no_error_is_swallowed(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ExceptHandler):
            catches_all = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
            does_nothing = all(isinstance(statement, ast.Pass | ast.Continue) for statement in node.body)
            assert not (catches_all and does_nothing), f"line {node.lineno}"


#: Who may read the environment, the clock, randomness.
OWNERS = {
    r"os\.environ": {"settings.py"},
    r"\btime\.time\b|datetime\.now|time\.time_ns": {"core/clock.py"},
    # A picture's noise comes from its seed: there is no chance in it.
    r"\brandom\.|\bsecrets\.|\buuid\b": {"core/clock.py", "engines/sampling/noise.py"},
    r"\bprint\(": set(),
}


@pytest.mark.parametrize(("what", "owners"), OWNERS.items(), ids=list(OWNERS))
def test_time_chance_and_environment_have_one_owner(what: str, owners: set[str]) -> None:
    users = {str(p.relative_to(ROOT / "src" / "minitoolai")) for p in SOURCES if re.search(what, _code(p))}
    assert users <= owners


def _code(path: Path) -> str:
    """The source without its docstrings and comments."""
    return ast.unparse(_without_docstrings(ast.parse(path.read_text("utf-8"))))


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | Function) and ast.get_docstring(node) is not None:
            node.body[0] = ast.Pass()
    return tree


#: A program that a machine lacks is the one good reason.
EXEMPT = {Path(__file__), ROOT / "tests" / "support" / "programs.py"}


def test_no_test_is_skipped_or_patched() -> None:
    forbidden = re.compile(
        r"pytest\.(mark\.)?(skip|xfail)|importorskip|monkeypatch\.setattr|unittest\.mock|mock\.patch"
    )
    guilty = [name_of(p) for p in (ROOT / "tests").rglob("*.py") if p not in EXEMPT and forbidden.search(_code(p))]
    assert guilty == []
