"""Rules of the source that protect users: no swallowed errors, exact money, short transactions, one owner for time."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "minitoolai"
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


@lru_cache(maxsize=1)
def tree_of(path: Path) -> ast.Module:
    """Parse the file. Only one tree is cached: keeping all of them takes longer than parsing again."""
    return ast.parse(path.read_text("utf-8"))


def places(paths: list[Path], is_guilty: Callable[[ast.AST], bool], sign: str = "") -> list[str]:
    """Return `file:line` of every node that the rule objects to.

    `sign` is a pattern of which every such node has a match: other files need not be parsed, which takes seconds.
    """
    return [
        f"{name_of(path)}:{node.lineno}"
        for path in paths
        if re.search(sign, path.read_text("utf-8"))
        for node in ast.walk(tree_of(path))
        if hasattr(node, "lineno") and is_guilty(node)
    ]


# ── Errors ────────────────────────────────────────────────────────────────────────────────────────────────


def swallows(node: ast.AST) -> bool:
    """Return True for `except Exception: pass` and the like."""
    if not isinstance(node, ast.ExceptHandler):
        return False
    catches_all = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
    return catches_all and all(isinstance(statement, ast.Pass | ast.Continue) for statement in node.body)


def test_no_error_is_swallowed() -> None:
    assert places(EVERYTHING, swallows, r"\b(?:pass|continue)\b") == []


# ── Transactions ──────────────────────────────────────────────────────────────────────────────────────────


def waits_in_transaction(node: ast.AST) -> bool:
    """Return True for a `with ….transaction():` block that gives control away: the lock would be held meanwhile."""
    if not isinstance(node, ast.With | ast.AsyncWith):
        return False
    if not any(".transaction(" in ast.unparse(item.context_expr) for item in node.items):
        return False
    waits = ast.Await | ast.AsyncFor | ast.AsyncWith
    return any(isinstance(inner, waits) for statement in node.body for inner in ast.walk(statement))


def test_nothing_is_awaited_in_a_transaction() -> None:
    assert places(SOURCES, waits_in_transaction, r"\btransaction\b") == []


# ── Threads ───────────────────────────────────────────────────────────────────────────────────────────────


def uses_the_shared_pool(node: ast.AST) -> bool:
    """Return True for a call that runs in asyncio's default pool, where a mail server that hangs would stop everything.

    `getaddrinfo` and `create_connection` of a loop resolve names there as well.
    """
    if not isinstance(node, ast.Call):
        return False
    name = ast.unparse(node.func)
    if name.endswith("run_in_executor"):
        return not node.args or ast.unparse(node.args[0]) == "None"
    if name.endswith(".create_connection") or name == "asyncio.open_connection":
        return not any(keyword.arg == "sock" for keyword in node.keywords)
    last = name.rpartition(".")[2]
    return last in ("to_thread", "set_default_executor") or (
        last in ("getaddrinfo", "getnameinfo") and not name.startswith("socket.")
    )


def test_no_work_shares_the_default_pool_of_threads() -> None:
    assert places(SOURCES, uses_the_shared_pool) == []


# ── Money ─────────────────────────────────────────────────────────────────────────────────────────────────

#: Modules in which amounts are computed or stored. A float is allowed there for a time in seconds only.
MONEY = [
    PACKAGE / name
    for name in (
        "ledger/types.py",
        "ledger/rules.py",
        "core/money.py",
        "core/models.py",
        "billing/charging.py",
        "billing/payments.py",
        "billing/selling/auto_topup.py",
        "billing/cashier.py",
        "billing/selling/invoices.py",
        "billing/providers/epay.py",
        "billing/providers/stripe.py",
        "core/catalog/tax.py",
        "billing/usage.py",
        "billing/audit.py",
        "storage/tables/ledger.py",
        "storage/selling/auto_topups.py",
        "storage/selling/invoices.py",
        "storage/tables/payments.py",
        "storage/tables/accounts.py",
        "storage/tables/reports.py",
    )
]


def makes_a_float(node: ast.AST) -> bool:
    """Return True for a true division, a call of `float()`, and a float, unless it is a time (`…_s`, `…_ms / 1000`)."""
    if isinstance(node, ast.AugAssign):
        return isinstance(node.op, ast.Div)
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, ast.Div) and not ast.unparse(node.left).lower().endswith("_ms")
    if isinstance(node, ast.Call):
        return ast.unparse(node.func) == "float"
    if isinstance(node, ast.arg):
        return _is_float(node.annotation) and not node.arg.endswith("_s")
    if isinstance(node, ast.AnnAssign):
        return _is_float(node.annotation) and not ast.unparse(node.target).lower().endswith("_s")
    return isinstance(node, Function) and _is_float(node.returns) and not node.name.endswith("_s")


def _is_float(annotation: ast.expr | None) -> bool:
    return annotation is not None and "float" in ast.unparse(annotation)


def test_money_is_never_a_float() -> None:
    assert all(path.exists() for path in MONEY)
    assert places(MONEY, makes_a_float) == []


# ── One owner each ────────────────────────────────────────────────────────────────────────────────────────

#: Pattern → modules that may use it. Everything else asks them, so that tests can set the time and the chance.
OWNERS = {
    # A child process gets its environment from one place.
    r"os\.environ": {"settings.py", "engines/child_process.py"},
    r"\btime\.time\b|datetime\.now|time\.time_ns": {"core/clock.py"},
    # An image's noise is computed from its seed, and the pattern of a watermark from its key: both are reproducible.
    r"(?m)^\s*(?:import|from) (?:random|secrets|uuid)\b|\bnp\.random\b": {
        "core/clock.py",
        "engines/images/compose/backgrounds.py",
        "engines/images/compose/looks.py",
        "engines/sampling/noise.py",
        "engines/marks/image.py",
        "engines/marks/speech.py",
        "engines/speech/sound.py",
    },
    r"\bprint\(": set(),
}


@pytest.mark.parametrize(("what", "owners"), OWNERS.items(), ids=list(OWNERS))
def test_time_randomness_and_environment_have_one_owner(what: str, owners: set[str]) -> None:
    users = {str(path.relative_to(PACKAGE)) for path in SOURCES if re.search(what, code_of(path))}
    assert users <= owners


@cache
def code_of(path: Path) -> str:
    """Return the source without docstrings and comments."""
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | Function) and ast.get_docstring(node) is not None:
            node.body[0] = ast.Pass()
    return ast.unparse(tree)


# ── Names and imports ─────────────────────────────────────────────────────────────────────────────────────

#: Names that more than one class still has. Take entries out; never add one.
SHARED_NAMES: set[str] = set()


def test_no_two_classes_share_a_name() -> None:
    owners: dict[str, list[str]] = defaultdict(list)
    for path in SOURCES:
        for name in outline(path)[0]:
            owners[name].append(name_of(path))
    shared = {name: paths for name, paths in owners.items() if len(paths) > 1 and name not in SHARED_NAMES}
    assert shared == {}


def is_relative_import(node: ast.AST) -> bool:
    """Return True for `from . import x`. The package `http` must never be confused with the standard library's."""
    return isinstance(node, ast.ImportFrom) and node.level > 0


def test_imports_are_absolute() -> None:
    assert places(EVERYTHING, is_relative_import, r"\bfrom[\s\\]*\.") == []


def test_no_function_is_longer_than_a_screen() -> None:
    long = {
        f"{name_of(path)}: {function}": lines
        for path in SOURCES
        if "versions" not in path.parts
        for function, lines in outline(path)[1]
        if lines > LONGEST_FUNCTION
    }
    assert long == {}


@cache
def outline(path: Path) -> tuple[list[str], list[tuple[str, int]]]:
    """Return the classes of a file, and its functions with their lengths."""
    nodes = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.ClassDef | Function)]
    functions = [node for node in nodes if not isinstance(node, ast.ClassDef)]
    return (
        [node.name for node in nodes if isinstance(node, ast.ClassDef)],
        [(node.name, (node.end_lineno or 0) - node.lineno + 1) for node in functions],
    )


# ── Tests ─────────────────────────────────────────────────────────────────────────────────────────────────

#: A program that is missing on a machine is the only good reason to skip a test.
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
    # Docstrings and comments may use these words.
    guilty = [name_of(path) for path in suspects if forbidden.search(code_of(path))]
    assert guilty == []


@pytest.mark.parametrize(
    ("rule", "bad", "good"),
    [
        (swallows, "try:\n    a()\nexcept Exception:\n    pass", "try:\n    a()\nexcept ValueError:\n    pass"),
        (
            waits_in_transaction,
            "async def f():\n    with c.transaction():\n        await g()",
            "async def f():\n    with c.transaction():\n        g()\n    await h()",
        ),
        (makes_a_float, "cost = tokens / 2", "cost = tokens // 2"),
        (makes_a_float, "cost /= 2", "wait_s = lease_ms / 1000"),
        (makes_a_float, "def price(amount: float) -> None: ...", "def wait(within_s: float) -> None: ..."),
        (uses_the_shared_pool, "await asyncio.to_thread(work, 1)", "await MAIL.run(work, 1)"),
        (uses_the_shared_pool, "await to_thread(work)", "await run_in_body_thread(work)"),
        (uses_the_shared_pool, "loop.run_in_executor(None, work)", "loop.run_in_executor(self._pool, work)"),
        (uses_the_shared_pool, "await loop.getaddrinfo(host, 1)", "socket.getaddrinfo(host, 1)"),
        (uses_the_shared_pool, "loop.create_connection(make, host, 1)", "loop.create_connection(make, sock=sock)"),
        (is_relative_import, "from . import errors", "from minitoolai.core import errors"),
    ],
)
def test_the_rules_object_to_what_they_forbid_and_to_nothing_else(
    rule: Callable[[ast.AST], bool], bad: str, good: str
) -> None:
    assert any(rule(node) for node in ast.walk(ast.parse(bad)))
    assert not any(rule(node) for node in ast.walk(ast.parse(good)))
