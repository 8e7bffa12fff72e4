"""Mutants of a module: wrong versions that each differ from the right one in one place."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
}

_NO_ACCOUNT = "a hold is always loaded together with its account"
_NO_OWNER = "a purse is always loaded together with its owner"
_OWNER_CHECK = "if hold is None or account is None or hold.account_id != operation.account_id:"
#: Mutants that change no behaviour: (function, line, change) → reason. Any other survivor is a missing test.
EQUIVALENT = {
    ("_settle", _OWNER_CHECK, "without part 2"): _NO_ACCOUNT,
    ("_requeue", _OWNER_CHECK, "without part 2"): _NO_ACCOUNT,
    ("_recover", _OWNER_CHECK, "without part 2"): _NO_ACCOUNT,
    ("_refund", _OWNER_CHECK, "without part 2"): _NO_ACCOUNT,
    (
        "_buy_plan",
        "if account is None or purse is None or purse.owner_id != operation.account_id:",
        "without part 1",
    ): _NO_OWNER,
    (
        "_open_purse",
        "for purse_id, purse in state.purses_of(owner_id) if state.purses else ():",
        "always the first",
    ): "without purses no account has one; it only saves the look",
    (
        "unused_part",
        "length_ms = max(purse.ends_ms - purse.begins_ms, 1)",
        "1 becomes 2",
    ): "nothing is left in a plan without a length",
    (
        "_external",
        "debit, credit = (FUNDING, account_id) if change > 0 else (account_id, FUNDING)",
        "GtE",
    ): "a change is never zero",
    (
        "_place_hold",
        "units = (available - operation.base) // operation.unit if operation.unit else -1",
        "1 becomes 2",
    ): "-1 and -2 are both less than least_units",
    (
        "_place_hold",
        'operation.now_ms, is_kept, operation.hold_id, "pending", 0',
        "0 becomes 1",
    ): "the settled amount of the claim is read from its hold, which is in the same batch",
    (
        "_requeue",
        "is_leased = (job.lease_until_ms or 0) > operation.lease_now_ms",
        "without part 2",
    ): "a running job has a lease",
    (
        "_requeue",
        "is_leased = (job.lease_until_ms or 0) > operation.lease_now_ms",
        "0 becomes 1",
    ): "no lease ends in the first millisecond of 1970",
    (
        "_checkpoint",
        "hold.lease_until_ms = max(hold.lease_until_ms or 0, operation.lease_until_ms)",
        "0 becomes 1",
    ): "no lease ends in the first millisecond of 1970",
}


@dataclass(frozen=True)
class Mutant:
    """A change of one module: function, text of the line, and change. Its tree is made on demand."""

    function: str
    line: str
    change: str
    source: str
    #: Which node of the tree is edited, in the order of ast.walk, and how.
    number: int
    edit: Callable[[Any], object]

    @property
    def place(self) -> tuple[str, str, str]:
        return self.function, self.line, self.change

    @property
    def tree(self) -> ast.Module:
        """Return the changed module."""
        # Parse again: takes a tenth of the time of copying a tree.
        wrong = ast.parse(self.source)
        self.edit(next(itertools.islice(ast.walk(wrong), self.number, None)))
        return ast.fix_missing_locations(wrong)


def mutants(source: str) -> Iterator[Mutant]:
    """Yield one mutant for every change that the tables above know.

    Assertions are left alone: they never fire while the code is right, so their loss changes no behaviour.
    """
    tree = ast.parse(source)
    lines = source.splitlines()
    asserted = {id(part) for node in ast.walk(tree) if isinstance(node, ast.Assert) for part in ast.walk(node)}
    functions = _function_by_line(tree)
    for number, node in enumerate(ast.walk(tree)):
        if id(node) in asserted:
            continue
        for line_number, change, edit in _changes(node):
            line = lines[line_number - 1].strip()
            yield Mutant(functions.get(line_number, ""), line, change, source, number, edit)


def _function_by_line(tree: ast.Module) -> dict[int, str]:
    functions: dict[int, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            functions |= dict.fromkeys(range(node.lineno, (node.end_lineno or node.lineno) + 1), node.name)
    return functions


def load(tree: ast.Module, name: str) -> ModuleType:
    """Compile a tree into a module."""
    module = ModuleType(name)
    exec(compile(tree, name, "exec"), module.__dict__)
    return module


def _changes(node: ast.AST) -> Iterator[tuple[int, str, Callable[[Any], object]]]:
    """Yield (line, change, edit of the same node in another tree)."""
    line = getattr(node, "lineno", 1)
    if isinstance(node, ast.Compare):
        for wrong in COMPARISONS.get(type(node.ops[0]), ()):
            yield line, wrong.__name__, lambda n, wrong=wrong: setattr(n, "ops", [wrong()])
    elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in ARITHMETIC:
        wrong_op = ARITHMETIC[type(node.op)]
        yield line, wrong_op.__name__, lambda n: setattr(n, "op", wrong_op())
    elif isinstance(node, ast.BoolOp):
        wrong_bool = ast.And if isinstance(node.op, ast.Or) else ast.Or
        yield line, wrong_bool.__name__, lambda n: setattr(n, "op", wrong_bool())
        for place in range(len(node.values)):
            yield line, f"without part {place + 1}", lambda n, place=place: _remove_part(n, place)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("min", "max"):
        other = "max" if node.func.id == "min" else "min"
        yield line, other, lambda n: setattr(n.func, "id", other)
    elif isinstance(node, ast.Call) and len(node.args) > 1:
        yield line, "first two swapped", lambda n: n.args.__setitem__(slice(0, 2), [n.args[1], n.args[0]])
    elif isinstance(node, ast.IfExp):
        yield line, "always the first", lambda n: setattr(n, "test", ast.Constant(True))
        yield line, "always the second", lambda n: setattr(n, "test", ast.Constant(False))
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int):
        value = not node.value if isinstance(node.value, bool) else node.value + 1
        yield line, f"{node.value} becomes {value}", lambda n: setattr(n, "value", value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield line, "without not", lambda n: setattr(n, "op", ast.UAdd())
    if isinstance(node, ast.If):
        yield line, "never", lambda n: setattr(n, "test", ast.Constant(False))
    if isinstance(node, ast.FunctionDef):
        for place, statement in enumerate(node.body):
            if isinstance(statement, ast.Assign | ast.AugAssign) or _is_call(statement):
                yield statement.lineno, "left out", lambda n, place=place: n.body.__setitem__(place, ast.Pass())


def _remove_part(node: ast.BoolOp, place: int) -> None:
    node.values.pop(place)
    if len(node.values) == 1:
        # A BoolOp with one value does not compile, so repeat it: `a or a` means `a`.
        node.values.append(node.values[0])


def _is_call(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
