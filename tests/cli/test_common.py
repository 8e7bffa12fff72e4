"""Commands share how they read dollars, find the database, and say what is missing."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from minitoolai.cli import common
from minitoolai.core.errors import InvalidRequest, SettingsError
from minitoolai.settings import Settings, load_settings
from tests.support.books import new_file


def test_dollars_are_exact_and_a_mistake_names_the_option() -> None:
    assert common.dollars("1.000000001") == 1_000_000_001
    with pytest.raises(InvalidRequest) as refused:
        common.dollars("ten")
    assert refused.value.param == "amount"


def test_a_command_gets_its_settings_and_its_status_is_returned(tmp_path: Path) -> None:
    seen: list[Settings] = []

    def run(settings: Settings, options: argparse.Namespace) -> int:
        seen.append(settings)
        return int(options.number)

    parser = argparse.ArgumentParser()
    command = common.add_command(parser.add_subparsers(), "count", "count things", run, "count --number 3")
    command.add_argument("--number", default="0")
    options = parser.parse_args(["count", "--number", "3", "--data-dir", str(tmp_path)])
    assert options.run(options) == 3
    assert seen[0].data_dir == tmp_path
    assert command.description == "Count things."
    assert "minitoolai count --number 3" in command.format_help()


def test_a_mistyped_folder_does_not_get_a_database(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path / "typo")
    for attempt in (common.prepare_existing, lambda s: common.read(s, lambda c: c.execute("SELECT 1"))):
        with pytest.raises(SettingsError, match=r"no database in .*typo; run minitoolai migrate, or choose --data-dir"):
            attempt(settings)


def test_a_write_that_fails_changes_nothing(tmp_path: Path) -> None:
    new_file(tmp_path)
    settings = load_settings(data_dir=tmp_path)
    common.prepare_existing(settings)
    names = lambda: common.read(settings, lambda c: c.execute("SELECT name FROM installation WHERE name = 'x'"))  # noqa: E731

    def change(connection: common.Connection, fails: bool) -> None:
        connection.execute("INSERT INTO installation (name, value) VALUES ('x', 'y')")
        if fails:
            raise InvalidRequest("no", param="x")

    with pytest.raises(InvalidRequest):
        common.write(settings, lambda connection: change(connection, True))
    assert names() == []
    common.write(settings, lambda connection: change(connection, False))
    assert names() == [("x",)]


def test_the_audit_log_names_user_and_machine() -> None:
    user, _, machine = common.machine_user().partition("@")
    assert user
    assert machine
