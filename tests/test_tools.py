"""Tests of the tools that `make install` and `make house` run."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from tools import choose_python, house, install
from tools.choose_python import Python

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


# ── the Python of .venv ──────────────────────────────────────────────────────────────────────────────────────


def taken(*found: Python) -> tuple[str, str]:
    """Return the path of the Python that is taken of these, and why."""
    python, why = choose_python.choose(choose_python.of_one_version(list(found)))
    return python.path, why


ON_PATH = Python("python3", "/pyenv/python3", (3, 11, 7), 25.0)


def test_a_faster_python_of_the_same_version_is_taken() -> None:
    faster = Python("/usr/bin/python3", "/usr/bin/python3", (3, 11, 2), 17.5)
    assert taken(ON_PATH, faster) == ("/usr/bin/python3", "1.43 times as fast as /pyenv/python3")


def test_python3_on_path_is_taken_if_others_are_hardly_faster_or_of_another_version() -> None:
    hardly = Python("/usr/bin/python3", "/usr/bin/python3", (3, 11, 2), 23.0)
    other = Python("/usr/bin/python3", "/usr/bin/python3", (3, 13, 0), 9.0)
    assert taken(ON_PATH) == taken(ON_PATH, other)
    assert taken(ON_PATH, other)[0] == taken(ON_PATH, hardly)[0] == "/pyenv/python3"


def test_without_a_usable_python3_the_oldest_version_that_can_be_used_is_taken() -> None:
    newer = Python("python3.13", "/usr/bin/python3.13", (3, 13, 0), 9.0)
    older = Python("python3.11", "/usr/bin/python3.11", (3, 11, 2), 17.0)
    assert taken(newer, older) == ("/usr/bin/python3.11", "python3 on PATH cannot be used")


def test_each_python_is_run_and_found_once(tmp_path: Path) -> None:
    (tmp_path / "again").symlink_to(sys.executable)
    found, unfit = choose_python.survey([sys.executable, str(tmp_path / "again"), str(tmp_path / "none")])
    assert ([python.version for python in found], unfit) == ([sys.version_info[:3]], {})
    assert 0 < found[0].work_ms < 10_000


def test_a_python_that_is_too_old_or_lacks_a_module_is_refused_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, program in (
        ("old", "echo '[[3, 8, 18], \"/old\", 9.0]'"),
        ("bare", "echo 'No module named ssl' >&2; exit 1"),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{program}\n")
        (tmp_path / name).chmod(0o755)
    assert choose_python.main([str(tmp_path / "old"), str(tmp_path / "bare")]) == 1
    out, err = capsys.readouterr()
    assert (out, "old: 3.8.18: older than 3.11" in err, "bare: No module named ssl" in err) == ("", True, True)
    assert "make PYTHON=python3.12 install" in err


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
