"""The style of CONTRIBUTING.md, where a machine can see it: short files, said purposes, no swallowed errors."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache, lru_cache
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


@lru_cache(maxsize=1)
def tree_of(path: Path) -> ast.Module:
    """The file, parsed. One is kept: to keep them all would take longer than to read them again."""
    return ast.parse(path.read_text("utf-8"))


def test_a_file_is_short_and_says_what_it_is_for() -> None:
    guilty = {name_of(path): why for path in EVERYTHING if (why := _why_no_good_file(path))}
    assert guilty == {}


def _why_no_good_file(path: Path) -> str:
    text = path.read_text("utf-8")
    if text.count("\n") > LONGEST_FILE[path.relative_to(ROOT).parts[0]]:
        return f"{text.count(chr(10))} lines"
    if not text.strip():
        return ""
    purpose = ast.get_docstring(tree_of(path))
    if not purpose:
        return "a module begins with a docstring"
    return "" if purpose.count("\n") < 26 else "the docstring is a chapter"


def test_most_files_fit_on_a_few_screens() -> None:
    lengths = sorted(path.read_text("utf-8").count("\n") for path in SOURCES)
    assert lengths[len(lengths) * 8 // 10] <= 250


def test_whatever_is_public_says_what_it_does() -> None:
    silent = []
    for path in SOURCES:
        tree = tree_of(path)
        silent += [
            f"{name_of(path)}: {node.name}"
            for node in public(tree)
            if not ast.get_docstring(node) and not _is_said_elsewhere(node, tree)
        ]
    assert silent == []


def _is_said_elsewhere(node: Function | ast.ClassDef, tree: ast.Module) -> bool:
    """In a class that says its purpose: a method of a few lines, or one that a protocol or library describes."""
    if not any(node in owner.body for owner in tree.body if isinstance(owner, ast.ClassDef)):
        return False
    is_short = (node.end_lineno or 0) - node.lineno < SHORT_METHOD
    return is_short or node.name in _documented_methods() or node.name in CALLBACKS


@cache
def _documented_methods() -> set[str]:
    return {
        n.name for path in SOURCES for n in public(tree_of(path)) if isinstance(n, Function) and ast.get_docstring(n)
    }


SHORT_METHOD = 8
#: asyncio.Protocol and httptools say what these are for.
CALLBACKS = {"data_received", "on_headers_complete", "on_message_complete"}


def test_no_function_is_longer_than_a_screen() -> None:
    long = {
        f"{name_of(path)}: {f.name}": _lines(f)
        for path in SOURCES
        if "versions" not in path.parts
        for f in functions(tree_of(path))
        if _lines(f) > LONGEST_FUNCTION
    }
    assert long == {}


def _lines(function: Function) -> int:
    return (function.end_lineno or 0) - function.lineno + 1


def test_functions_are_short_at_the_median_and_at_the_ninetieth_percentile() -> None:
    lengths = sorted(_lines(f) for path in SOURCES for f in functions(tree_of(path)))
    assert lengths[len(lengths) // 2] <= 12
    assert lengths[len(lengths) * 9 // 10] <= 35


def test_no_error_is_swallowed() -> None:
    guilty = [
        f"{name_of(path)}:{node.lineno}"
        for path in EVERYTHING
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ExceptHandler) and _swallows(node)
    ]
    assert guilty == []


def _swallows(handler: ast.ExceptHandler) -> bool:
    catches_all = handler.type is None or ast.unparse(handler.type) in ("Exception", "BaseException")
    return catches_all and all(isinstance(statement, ast.Pass | ast.Continue) for statement in handler.body)


#: Who may read the environment, the clock, randomness.
OWNERS = {
    # A child process gets its environment from one place.
    r"os\.environ": {"settings.py", "engines/child_process.py"},
    r"\btime\.time\b|datetime\.now|time\.time_ns": {"core/clock.py"},
    # A picture's noise comes from its seed: there is no chance in it.
    r"\brandom\.|\bsecrets\.|\buuid\b": {"core/clock.py", "engines/sampling/noise.py"},
    r"\bprint\(": set(),
}


@pytest.mark.parametrize(("what", "owners"), OWNERS.items(), ids=list(OWNERS))
def test_time_chance_and_environment_have_one_owner(what: str, owners: set[str]) -> None:
    users = {str(p.relative_to(ROOT / "src" / "minitoolai")) for p in SOURCES if re.search(what, _code(p))}
    assert users <= owners


@cache
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
    suspects = [
        path
        for path in (ROOT / "tests").rglob("*.py")
        if path not in EXEMPT and forbidden.search(path.read_text("utf-8"))
    ]
    # Words of a docstring or comment forbid nothing.
    guilty = [name_of(path) for path in suspects if forbidden.search(_code(path))]
    assert guilty == []
