"""Wrong versions of a module: each differs from the right one in one place, as a slip of the hand would."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator
from types import ModuleType

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


def mutants(source: str) -> Iterator[tuple[str, ast.Module]]:
    """(what was changed where, the changed module) for every slip that the tables above know.

    Assertions are left alone: they never fire while the rest is right, so their loss changes no behaviour.
    """
    tree = ast.parse(source)
    asserted = {id(part) for node in ast.walk(tree) if isinstance(node, ast.Assert) for part in ast.walk(node)}
    for number, node in enumerate(ast.walk(tree)):
        if id(node) in asserted:
            continue
        for change, edit in _slips(node):
            # Read anew: a tenth of what copying a tree takes.
            wrong = ast.parse(source)
            edit(next(itertools.islice(ast.walk(wrong), number, None)))
            yield f"line {getattr(node, 'lineno', 0)}: {change}", ast.fix_missing_locations(wrong)


def load(tree: ast.Module, name: str) -> ModuleType:
    """The module that a tree says."""
    module = ModuleType(name)
    exec(compile(tree, name, "exec"), module.__dict__)
    return module


def _slips(node: ast.AST) -> Iterator[tuple[str, object]]:
    text = ast.unparse(node)[:60] if isinstance(node, ast.expr | ast.stmt) else ""
    if isinstance(node, ast.Compare):
        for wrong in COMPARISONS.get(type(node.ops[0]), ()):
            yield f"{text}: {wrong.__name__}", lambda n, wrong=wrong: setattr(n, "ops", [wrong()])
    elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in ARITHMETIC:
        wrong_op = ARITHMETIC[type(node.op)]
        yield f"{text}: {wrong_op.__name__}", lambda n: setattr(n, "op", wrong_op())
    elif isinstance(node, ast.BoolOp):
        wrong_bool = ast.And if isinstance(node.op, ast.Or) else ast.Or
        yield f"{text}: {wrong_bool.__name__}", lambda n: setattr(n, "op", wrong_bool())
        for place in range(len(node.values)):
            yield f"{text}: without part {place + 1}", lambda n, place=place: n.values.pop(place)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("min", "max"):
        other = "max" if node.func.id == "min" else "min"
        yield f"{text}: {other}", lambda n: setattr(n.func, "id", other)
    elif isinstance(node, ast.Call) and len(node.args) > 1:
        yield f"{text}: first two swapped", lambda n: n.args.__setitem__(slice(0, 2), [n.args[1], n.args[0]])
    elif isinstance(node, ast.IfExp):
        yield f"{text}: always the first", lambda n: setattr(n, "test", ast.Constant(True))
        yield f"{text}: always the second", lambda n: setattr(n, "test", ast.Constant(False))
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int):
        value = not node.value if isinstance(node.value, bool) else node.value + 1
        yield f"{text} becomes {value}", lambda n: setattr(n, "value", value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield f"{text}: without not", lambda n: setattr(n, "op", ast.UAdd())
    if isinstance(node, ast.If):
        yield f"if {ast.unparse(node.test)[:50]}: never", lambda n: setattr(n, "test", ast.Constant(False))
    if isinstance(node, ast.FunctionDef):
        for place, statement in enumerate(node.body):
            if isinstance(statement, ast.Assign | ast.AugAssign) or _is_call(statement):
                yield (
                    f"{ast.unparse(statement)[:60]}: left out",
                    lambda n, place=place: n.body.__setitem__(place, ast.Pass()),
                )


def _is_call(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
