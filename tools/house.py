"""Measure the source tree and print the figures beside those of well-known Python projects.

    python -m tools.house                measure src/minitoolai and check its limits
    python -m tools.house PACKAGE TESTS  measure another package, to take a reference figure; nothing is checked

Exit with status 1 if modules import each other in a cycle (imports under `TYPE_CHECKING` count), if import-linter
finds a broken contract, or if the share of non-imperative docstrings or of riddle words rises above the recorded
limit. All other figures are for information. Limits, reference figures and the word list are in tools/house.toml.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import math
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parent.parent
CONFIG: dict[str, Any] = tomllib.loads((Path(__file__).with_suffix(".toml")).read_text("utf-8"))
RIDDLES = re.compile(r"\b(" + "|".join(CONFIG["riddles"]["words"]) + r")\b", re.IGNORECASE)
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Source:
    """One parsed module."""

    def __init__(self, path: Path, package: Path) -> None:
        self.path = path
        relative = path.relative_to(package.parent).with_suffix("")
        self.is_package = relative.name == "__init__"
        #: The dotted name, without `__init__`.
        self.name = ".".join(relative.parts[:-1] if self.is_package else relative.parts)
        self.text = path.read_text("utf-8")
        self.tree = ast.parse(self.text)

    @property
    def lines(self) -> int:
        """Number of lines in the file."""
        return self.text.count("\n")

    @cached_property
    def functions(self) -> list[Function]:
        """All functions and methods, nested ones too."""
        return [node for node in ast.walk(self.tree) if isinstance(node, Function)]

    @cached_property
    def docstrings(self) -> list[str]:
        """Docstrings of the module, its classes and its functions."""
        nodes = [node for node in ast.walk(self.tree) if isinstance(node, Documented)]
        return [text for node in nodes if (text := ast.get_docstring(node))]

    @property
    def function_docstrings(self) -> int:
        """Number of functions that have a docstring: the ones that D401 looks at."""
        return sum(ast.get_docstring(function) is not None for function in self.functions)

    @cached_property
    def comments(self) -> list[str]:
        """Text of every comment."""
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        return [token.string for token in tokens if token.type == tokenize.COMMENT]


@dataclass(frozen=True)
class Tree:
    """A package: its root folder and its modules, without database migrations."""

    root: Path
    modules: list[Source]

    @classmethod
    def read(cls, root: Path) -> Tree:
        """Parse every module below `root`. Files with less than two lines count as empty."""
        paths = sorted(path for path in root.rglob("*.py") if "versions" not in path.parts)
        sources = [Source(path, root) for path in paths]
        return cls(root, [source for source in sources if source.lines >= 2])

    @property
    def lines(self) -> int:
        """Number of lines in all modules together."""
        return sum(source.lines for source in self.modules)


# ── Figures ───────────────────────────────────────────────────────────────────────────────────────────────


def figures(tree: Tree, tests: Path | None) -> dict[str, str]:
    """Return every figure of the table by its name, formatted."""
    modules = sorted(source.lines for source in tree.modules)
    functions = sorted((f.end_lineno or f.lineno) - f.lineno + 1 for s in tree.modules for f in s.functions)
    docstring_lines = sum(text.count("\n") + 1 for source in tree.modules for text in source.docstrings)
    folders: dict[Path, int] = {}
    for source in tree.modules:
        if not source.is_package:
            folders[source.path.parent] = folders.get(source.path.parent, 0) + 1
    return {
        "modules": f"{len(modules)}",
        "lines": f"{tree.lines}",
        "modules per 1,000 lines": f"{1000 * len(modules) / tree.lines:.1f}",
        "module lines: median": f"{median(modules):.0f}",
        "module lines: 90th percentile": f"{percentile(modules, 90)}",
        "module lines: longest": f"{modules[-1]}",
        "docstring lines per 100 lines": f"{100 * docstring_lines / tree.lines:.1f}",
        "function lines: median": f"{median(functions):.0f}",
        "function lines: 90th percentile": f"{percentile(functions, 90)}",
        "loose modules at the package root": f"{folders.get(tree.root, 0)}",
        "files in the fullest folder": f"{max(folders.values())}",
        "docstrings not in the imperative (D401), %": f"{not_imperative_percent(tree):.1f}",
        "docstrings and comments with a riddle word, %": f"{riddle_percent(tree):.1f}",
        "modules with a test of their name, %": f"{tested_percent(tree, tests):.0f}" if tests else "–",
    }


def percentile(sorted_values: list[int], percent: int) -> int:
    """Return the value below which `percent` of the values lie."""
    return sorted_values[min(len(sorted_values) - 1, math.floor(len(sorted_values) * percent / 100))]


def not_imperative_percent(tree: Tree) -> float:
    """Return the share of function docstrings whose first line is not in the imperative, by ruff's D401."""
    ruff = str(Path(sys.executable).parent / "ruff")
    command = [
        ruff, "check", "--isolated", "--no-cache", "--select", "D401", "--ignore-noqa", "--output-format", "json",
        "--config", "lint.pydocstyle.convention='pep257'", "--exit-zero", str(tree.root),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    known = {str(source.path.resolve()) for source in tree.modules}
    faults = sum(fault["filename"] in known for fault in json.loads(done.stdout))
    return 100 * faults / max(1, sum(source.function_docstrings for source in tree.modules))


def riddle_percent(tree: Tree) -> float:
    """Return the share of docstrings and comments that contain a word of the list in tools/house.toml."""
    notes = [note for source in tree.modules for note in (*source.docstrings, *source.comments)]
    return 100 * sum(RIDDLES.search(note) is not None for note in notes) / max(1, len(notes))


def tested_percent(tree: Tree, tests: Path) -> float:
    """Return the share of modules that have `tests/<package>/test_<module>.py`."""
    wanted = [
        tests / source.path.parent.relative_to(tree.root) / f"test_{source.path.stem}.py"
        for source in tree.modules
        if not source.is_package and source.path.stem != "__main__"
    ]
    return 100 * sum(path.exists() for path in wanted) / max(1, len(wanted))


# ── Import cycles ─────────────────────────────────────────────────────────────────────────────────────────


def imports(tree: Tree) -> dict[str, set[str]]:
    """Return module → modules of the same package that it imports anywhere, `TYPE_CHECKING` blocks included."""
    known = {source.name for source in tree.modules}
    graph: dict[str, set[str]] = {}
    for source in tree.modules:
        names = {name for node in ast.walk(source.tree) for name in _imported(node, known)}
        graph[source.name] = names - {source.name}
    return graph


def _imported(node: ast.AST, known: set[str]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in known)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        for alias in node.names:
            full = f"{node.module}.{alias.name}"
            if full in known:
                yield full
            elif node.module in known:
                yield node.module


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import each other in a cycle (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in sorted(graph[name] & graph.keys()):
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return found


# ── The command ───────────────────────────────────────────────────────────────────────────────────────────


def table(ours: dict[str, str]) -> str:
    """Return our figures beside the recorded reference figures, in columns."""
    peers: dict[str, dict[str, Any]] = CONFIG["reference"]["peers"]
    rows = [("", "ours", *peers, "goal")]
    for name, value in ours.items():
        others = [str(figures.get(name, "–")) for figures in peers.values()]
        rows.append((name, value, *others, str(CONFIG["goals"].get(name, ""))))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        row[0].ljust(widths[0]) + "".join(f"  {cell.rjust(widths[at])}" for at, cell in enumerate(row) if at)
        for row in rows
    ]
    return "\n".join(lines) + f"\nreference figures measured on {CONFIG['reference']['measured']}\n"


def faults(tree: Tree, ours: dict[str, str]) -> list[str]:
    """Return what must be repaired before a change can land."""
    found = [f"import cycle: {' ↔ '.join(group)}" for group in cycles(imports(tree))]
    for name, limit in CONFIG["limits"].items():
        if float(ours[name]) > limit:
            found.append(f"{name}: {ours[name]} is above the recorded limit of {limit} (tools/house.toml)")
    linter = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([str(linter)], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        found.append(f"import contract broken:\n{done.stdout}{done.stderr}")
    return found


def main() -> int:
    """Print the table and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.house",
        description="Measure the source tree, print the figures beside those of other projects, check the limits.",
    )
    parser.add_argument("package", nargs="?", type=Path, help="measure this package folder instead, and check nothing")
    parser.add_argument("tests", nargs="?", type=Path, help="folder of that package's tests")
    options = parser.parse_args()
    package = (options.package or ROOT / "src" / "minitoolai").resolve()
    tree = Tree.read(package)
    ours = figures(tree, options.tests if options.package else ROOT / "tests")
    sys.stdout.write(table(ours))
    if options.package:
        return 0
    found = faults(tree, ours)
    for fault in found:
        sys.stderr.write(f"FAULT  {fault}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
