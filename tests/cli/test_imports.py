"""Check that commands import only the libraries they need, so that most take a third of a second."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.cli import Cli

ANN = "ann@example.com"
#: Not needed by commands about accounts, keys and money.
HEAVY = {
    "alembic", "argon2", "babel", "httptools", "itsdangerous", "jinja2", "numpy", "obstore", "onnxruntime", "PIL",
    "prometheus_client", "psycopg", "soundfile", "sqlalchemy", "starlette", "stripe", "tokenizers", "uvicorn", "uvloop",
    "xllamacpp",
    "minitoolai.api", "minitoolai.app", "minitoolai.portal", "minitoolai.bootstrap",
}  # fmt: skip
#: Imported by a server only if a migration is due, or in the child processes of engines.
NOT_SERVED = {"alembic", "numpy", "onnxruntime", "PIL", "psycopg", "soundfile", "sqlalchemy", "torch", "xllamacpp"}

COMMANDS = [
    ["account", "create", ANN, "--credit", "5.00"],
    ["key", "create", ANN],
    ["key", "list", ANN],
    ["credit", "grant", ANN, "1.00"],
    ["voucher", "create", "5.00"],
    ["voucher", "list"],
    ["balance", ANN],
    ["audit"],
    ["margin"],
    ["secret", "list"],
    ["migrate"],
]

RUN = """
import json, sys
from minitoolai.cli.main import main
for command in json.loads(sys.argv[1]):
    try:
        main(command)
    except SystemExit as end:
        assert not end.code, command
print(json.dumps(sorted(sys.modules)))
"""
IMPORT = """
import json, sys
import minitoolai.cli.serve, minitoolai.app, minitoolai.cli.serve, minitoolai.http.serving.supervisor
print(json.dumps(sorted(sys.modules)))
"""


def imported(cli: Cli, program: str, *arguments: str) -> set[str]:
    """Return the modules that a process has imported when it ends."""
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, env=cli.env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_short_commands_import_nothing_heavy_if_no_migration_is_due(empty_books: Cli) -> None:
    assert imported(empty_books, RUN, json.dumps(COMMANDS)) & HEAVY == set()


def test_a_server_imports_neither_sqlalchemy_nor_the_libraries_of_engines(empty_books: Cli) -> None:
    assert imported(empty_books, IMPORT) & NOT_SERVED == set()


@pytest.fixture
def empty_books(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    return Cli(tmp_path_factory.mktemp("imports")).with_books()
