"""The documentation names files, functions and errors that exist, and stays short where it must."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from minitoolai.core import errors

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "minitoolai"
DOCS = ROOT / "docs"
#: Pages that name files and tests. Paths are relative to the repository or to the package.
MAPS = [
    "docs/architecture.md",
    "CONTRIBUTING.md",
    "docs/portal.md",
    "docs/reliability.md",
    "docs/decisions/0013-slices-above-shared-ground.md",
]
#: A path in backticks, with an optional name in that file: `chat/run.py::ChatRun.charge`.
REFERENCE = re.compile(r"`([\w./-]*[\w-](?:/|\.(?:py|md|toml|yaml|html|css|js|in|txt|cfg)))(?:::([\w.]+))?`")
LONGEST_GLOSSARY = 25


def references(page: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = REFERENCE.findall((ROOT / page).read_text("utf-8"))
    return found


def place_of(path: str) -> Path | None:
    return next((base / path for base in (PACKAGE, ROOT, DOCS) if (base / path).exists()), None)


@pytest.mark.parametrize("page", MAPS)
def test_every_path_on_a_map_exists(page: str) -> None:
    named = references(page)
    assert len(named) > 8
    assert [path for path, _ in named if place_of(path) is None] == []


@pytest.mark.parametrize("page", MAPS)
def test_every_name_on_a_map_is_defined_in_its_file(page: str) -> None:
    missing = [
        f"{path}::{name}"
        for path, name in references(page)
        if name and name not in names_in(place_of(path) or PACKAGE / path)
    ]
    assert missing == []


@cache
def names_in(path: Path) -> frozenset[str]:
    """Return the functions, classes, constants and methods (`Class.method`) that a module defines."""
    names = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            functions = (inner for inner in node.body if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef))
            names.update(f"{node.name}.{inner.name}" for inner in functions)
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names.update(target.id for target in targets if isinstance(target, ast.Name))
    return frozenset(names)


def test_every_package_and_root_module_is_on_the_architecture_page() -> None:
    named = {path.partition("/")[0] for path, _ in references("docs/architecture.md")}
    parts = [path.name for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    assert {part for part in parts if not part.startswith("__")} - named == set()


def test_the_architecture_page_says_where_at_least_twenty_things_are() -> None:
    text = (DOCS / "architecture.md").read_text("utf-8")
    table = text[text.index("## Where is …?") : text.index("## Errors")]
    assert len([line for line in table.splitlines() if line.startswith("| ")]) - 1 >= 20


def test_the_layers_on_the_architecture_page_are_those_that_are_enforced() -> None:
    text = (DOCS / "architecture.md").read_text("utf-8")
    table = text[text.index("| layer | holds |") : text.index("Each slice has files")]
    cells = [re.split(r"(?<!\\)\|", line)[1] for line in table.splitlines() if line.startswith("| `")]
    shown = [sorted(re.findall(r"`(\w+)(?:/|\.py)`", cell)) for cell in cells]
    contract = (ROOT / "pyproject.toml").read_text("utf-8")
    layers = contract[contract.index("layers = [") : contract.index("]", contract.index("layers = ["))]
    enforced = [re.findall(r"\w+", line) for line in re.findall(r'"([^"]+)"', layers)]
    assert shown == [sorted(names) for names in enforced if "__main__" not in names]


def test_the_glossary_has_few_words() -> None:
    lines = [line for line in (DOCS / "glossary.md").read_text("utf-8").splitlines() if line.startswith("| ")]
    words = [line.split("|")[1].strip() for line in lines[1:]]
    assert 0 < len(words) <= LONGEST_GLOSSARY
    assert words == sorted(words, key=str.lower)


def test_every_exception_is_on_the_page_of_errors() -> None:
    page = (DOCS / "reference" / "errors.md").read_text("utf-8")
    classes = [name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(classes) > 25
    assert [name for name in classes if f"`{name}`" not in page] == []


def test_decisions_are_numbered_without_gaps_and_titled_by_their_number() -> None:
    pages = sorted((DOCS / "decisions").glob("*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    assert [page.name for page in pages if not page.read_text("utf-8").startswith(f"# {int(page.name[:4])}. ")] == []


def test_a_decision_named_in_docs_or_code_exists() -> None:
    known = {page.name[:4] for page in (DOCS / "decisions").glob("*.md")}
    texts = [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *PACKAGE.rglob("*.py")]
    named = {number for path in texts for number in re.findall(r"decisions?[/ ](\d{4})", path.read_text("utf-8"))}
    assert named
    assert named <= known


def test_the_licence_is_the_unchanged_apache_licence_and_both_files_are_packaged() -> None:
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert text.lstrip().startswith("Apache License\n                           Version 2.0, January 2004")
    assert "END OF TERMS AND CONDITIONS" in text
    assert len(text.split()) == 1581
    assert 'license-files = ["LICENSE", "NOTICE"]' in (ROOT / "pyproject.toml").read_text("utf-8")


def test_every_work_of_others_that_is_shipped_is_in_the_notice() -> None:
    page = (DOCS / "licences.md").read_text("utf-8")
    works = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| ")][1:]
    assert len(works) >= 5
    notice = (ROOT / "NOTICE").read_text("utf-8")
    assert [work for works_ in works for work in works_.split(", ") if work not in notice] == []


# ── faults that were found once ───────────────────────────────────────────────────────────────────────────


def test_the_reference_of_commands_shows_no_placeholder_of_the_parser() -> None:
    assert "SUPPRESS" not in (DOCS / "reference" / "cli.md").read_text("utf-8")


def test_the_readme_can_be_followed_from_top_to_bottom() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert text.index("git clone") < text.index("make serve")
    assert text.index("export MINITOOLAI_KEY=") < text.index("$MINITOOLAI_KEY")
    commands = re.findall(
        r"^\S*minitoolai .*$", "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)), re.MULTILINE
    )
    # Later ones follow `export PATH=…`.
    assert commands[0].startswith(".venv/bin/minitoolai ")


def test_no_page_names_a_code_that_is_never_sent() -> None:
    pages = [*(PACKAGE / "portal" / "templates").rglob("*.html"), *(DOCS / "reference").glob("*.md")]
    assert [page.name for page in pages if "key_forbids" in page.read_text("utf-8")] == []
