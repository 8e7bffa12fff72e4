"""Tests of the tools that `make install` and `make house` run."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from tools import house, install

ROOT = Path(__file__).parent.parent
PIP = """\
Looking in indexes: https://user:secret@mirror.example/simple
Collecting alembic==1.20.1 (from -r requirements.txt (line 3))
  Downloading https://mirror.example/alembic-1.20.1.whl (233 kB)
Requirement already satisfied: babel==2.18.0 in ./lib (from -r requirements.txt (line 9))
Collecting psycopg[binary]==3.3.9
Installing collected packages: alembic, psycopg
""".splitlines(keepends=True)


def test_installing_shows_one_counted_line_for_each_package() -> None:
    assert list(install.progress(PIP, "packages", 3)) == [
        "packages: 1/3 alembic 1.20.1",
        "packages: 2/3 babel 2.18.0",
        "packages: 3/3 psycopg 3.3.9",
        "packages: copying 3 packages into the environment (this takes a while)",
    ]


def test_packages_are_counted_in_the_files_of_requirements(tmp_path: Path) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text("# note\nalembic==1.20.1 \\\n    --hash=sha256:00\npsycopg[binary]==3.3.9\n")
    assert install.requirement_files(["--no-deps", "-r", str(file)]) == [file]
    assert install.packages_in([file]) == 2


def test_a_failed_installation_shows_what_pip_said_without_the_address_of_the_index(tmp_path: Path) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text("no-such-package-here==1.0\n")
    command = [
        sys.executable,
        "tools/install.py",
        "packages",
        "--no-index",
        "--find-links",
        "file:///no/such",
        "-r",
        str(file),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "No matching distribution found for no-such-package-here" in done.stderr
    assert "packages: pip failed with status 1" in done.stderr
    assert "://" not in done.stdout + done.stderr


# ── make house ────────────────────────────────────────────────────────────────────────────────────────────


def tree(folder: Path, **modules: str) -> house.Tree:
    package = folder / "pkg"
    package.mkdir()
    (package / "__init__.py").write_text("")
    for name, text in modules.items():
        (package / f"{name}.py").write_text(text)
    return house.Tree.read(package)


def test_an_import_cycle_is_found_even_if_only_the_type_checker_sees_it(tmp_path: Path) -> None:
    cyclic = tree(
        tmp_path,
        a="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pkg.b import B\n",
        b="from pkg import c\nclass B: ...\n",
        c="def f():\n    import pkg.a\n",
        d="import pkg.a\nimport pkg.b\n",
    )
    assert house.cycles(house.imports(cyclic)) == [["pkg.a", "pkg.b", "pkg.c"]]


def test_modules_that_import_in_one_direction_are_no_cycle(tmp_path: Path) -> None:
    straight = tree(tmp_path, a="import pkg.b\nimport pkg.c\n", b="from pkg.c import x\n\n", c="x = 1\ny = 2\n")
    assert house.cycles(house.imports(straight)) == []


def test_docstrings_comments_and_tests_are_counted(tmp_path: Path) -> None:
    text = '"""Whoever reads this."""\n\n\ndef f():\n    """Returns one."""\n    return 1  # plain\n'
    measured = tree(tmp_path, a=text, b='def g():\n    """Return two."""\n    return 2\n')
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "test_a.py").write_text("")
    figures = house.figures(measured, tests)
    assert figures["docstrings not in the imperative (D401), %"] == "50.0"
    assert figures["docstrings and comments with a riddle word, %"] == "25.0"
    assert figures["modules with a test of their name, %"] == "50"
    assert (figures["modules"], figures["lines"], figures["loose modules at the package root"]) == ("2", "9", "2")


def test_a_figure_above_its_limit_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = tree(tmp_path, a='def f():\n    """Returns one."""\n    return 1\n')
    figures = house.figures(measured, None)
    monkeypatch.setitem(house.CONFIG, "limits", {"docstrings not in the imperative (D401), %": 99.9})
    (fault,) = [fault for fault in house.faults(measured, figures) if not fault.startswith("import contract")]
    assert fault.startswith("docstrings not in the imperative (D401), %: 100.0 is above the recorded limit of 99.9")


def test_every_limit_and_goal_names_a_figure_that_is_measured(tmp_path: Path) -> None:
    measured = house.figures(tree(tmp_path, a='def f():\n    """Return one."""\n    return 1\n'), tmp_path)
    assert set(house.CONFIG["limits"]) | set(house.CONFIG["goals"]) <= set(measured)
    for peer in house.CONFIG["reference"]["peers"].values():
        assert set(peer) <= set(measured)


def test_the_installer_needs_nothing_but_the_standard_library() -> None:
    imported = [
        node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in ast.walk(ast.parse((ROOT / "tools" / "install.py").read_text("utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names
