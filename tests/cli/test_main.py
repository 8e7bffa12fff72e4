"""Run the real `minitoolai` command: output, messages and exit status."""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from importlib.resources import files
from pathlib import Path

import pytest

from minitoolai import __version__
from minitoolai.accounts.keys import KEY_PATTERN
from tests.support.cli import CATALOG, PROGRAM, Cli
from tests.support.cluster import Cluster

ANN = "ann@example.com"


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


@pytest.fixture(scope="module")
def ann(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """Return a folder with one account of $5. Tests must not change it."""
    made = Cli(tmp_path_factory.mktemp("ann")).with_books()
    assert re.fullmatch(rf"account \d+ {ANN} \$5\.00\n", made.ok_within("account", "create", ANN, "--credit", "5.00"))
    return made


def test_an_account_goes_from_creation_to_the_revocation_of_its_key(cli: Cli) -> None:
    cli.with_books().ok("account", "create", "Ann@Example.com ")
    key = cli.ok("key", "create", ANN, "--name", "laptop").removesuffix("\n")
    match = KEY_PATTERN.fullmatch(key)
    assert match
    assert cli.ok("key", "list", ANN) == f"{match[1]}  active   laptop\n"
    assert cli.ok("credit", "grant", ANN, "20.00", "--reason", "invoice 17") == "balance $20.00\n"
    assert cli.ok("balance", ANN) == "balance $20.00  held $0.00  available $20.00\n"
    assert cli.ok("key", "revoke", key) == f"revoked {match[1]}\n"
    assert cli.ok("key", "list", ANN) == f"{match[1]}  revoked  laptop\n"
    assert cli.within("key", "revoke", match[1]).status == 1
    assert cli.ok("audit") == "15 invariants hold\n"


def test_key_create_prints_only_the_key_on_standard_output(ann: Cli) -> None:
    out = ann.ok_within("key", "create", ANN)
    assert KEY_PATTERN.fullmatch(out.removesuffix("\n"))


def test_the_secret_of_a_key_is_not_stored(cli: Cli) -> None:
    cli.with_books().ok_within("account", "create", ANN)
    key = cli.ok_within("key", "create", ANN).strip()
    secret = key.split("-")[3].encode()
    for file in cli.data_dir.iterdir():
        assert secret not in file.read_bytes(), file
    assert (cli.data_dir / "secret.key").stat().st_mode & 0o077 == 0


def test_a_reference_is_credited_once(ann: Cli) -> None:
    before = ann.ok_within("credit", "grant", ANN, "1.00", "--reference", "invoice 18")
    again = ann.ok_within("credit", "grant", ANN, "1.00", "--reference", "invoice 18")
    assert again == before.rstrip("\n") + " (this reference was credited before; nothing changed)\n"


def test_a_password_is_read_from_standard_input_and_stored_as_a_hash(cli: Cli) -> None:
    cli.with_books().ok_within("account", "create", ANN, "--password-stdin", stdin="correct horse\n")
    with closing(sqlite3.connect(cli.database)) as db:
        ((hashed,),) = db.execute("SELECT password_hash FROM users").fetchall()
    assert hashed.startswith("$argon2id$")
    assert b"correct horse" not in cli.database.read_bytes()


#: (command, a part of the message). Each must exit 1, print nothing on standard output, and say what to do.
REFUSED = [
    (("account", "create", "ann"), "is not an e-mail address. Use the form ann@example.com"),
    (("account", "create", ANN), "already has an account"),
    (("account", "create", "bob@example.com", "--credit", "five"), "is not an amount in dollars; write it like 5.00"),
    (("account", "create", "bob@example.com", "--credit", "-5"), "more than zero"),
    (("account", "create", "bob@example.com", "--password-stdin"), "at least 8 characters"),
    (("key", "create", "bob@example.com"), "Create it with: minitoolai account create bob@example.com"),
    (("key", "create", ANN, "--name", " "), "1 to 80 characters"),
    (("key", "create", ANN, "--name", "x" * 81), "1 to 80 characters"),
    (
        ("key", "create", ANN, "--models", "fake-chat,fake-chap"),
        "there is no model 'fake-chap'; the nearest is fake-chat",
    ),
    (("key", "list", "bob@example.com"), "Create it with: minitoolai account create"),
    (("key", "revoke", "0aB1cD2eF3gH"), "there is no active key 0aB1cD2eF3gH; see minitoolai key list"),
    (("credit", "grant", "bob@example.com", "5"), "Create it with: minitoolai account create"),
    (("credit", "grant", ANN, "0"), "more than zero"),
    (("credit", "grant", ANN, "0.0000000001"), "nine decimal places"),
    (("credit", "grant", ANN, "2000000000"), "more than the largest amount"),
    (("balance", "bob@example.com"), "Create it with: minitoolai account create"),
    (("serve", "--port", "70000"), "it must be 0 to 65535"),
]


@pytest.mark.parametrize(
    ("command", "words"), REFUSED, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_a_refused_command_prints_one_line_with_a_remedy(ann: Cli, command: tuple[str, ...], words: str) -> None:
    said = ann.within(*command)
    assert (said.status, said.out) == (1, "")
    assert said.err.startswith("minitoolai: ")
    assert said.err.count("\n") == 1
    assert words in said.err


def test_a_refused_account_leaves_nothing_behind(ann: Cli) -> None:
    assert ann.within("account", "create", "carl@example.com", "--credit", "1e5").status == 1
    assert ann.within("balance", "carl@example.com").status == 1


@pytest.mark.parametrize("command", [(), ("fly",), ("account",), ("credit", "grant", ANN), ("serve", "--port", "x")])
def test_wrong_usage_exits_with_status_2(ann: Cli, command: tuple[str, ...]) -> None:
    said = ann.within(*command)
    assert (said.status, said.out) == (2, "")
    assert "usage: minitoolai" in said.err


@pytest.mark.parametrize(
    "command",
    [(), ("serve",), ("account", "create"), ("key", "create"), ("key", "list"), ("key", "revoke"), ("key", "rotate"),
     ("credit", "grant"), ("account",), ("key",), ("credit",), ("voucher",), ("secret",),
     ("balance",), ("models",), ("audit",), ("migrate",), ("doctor",)],
)  # fmt: skip
def test_the_help_of_every_command_has_an_example(ann: Cli, command: tuple[str, ...]) -> None:
    said = ann.within(*command, "--help")
    assert (said.status, said.err) == (0, "")
    out = said.out
    assert "example" in out
    assert " ".join(("minitoolai", *command)) in out


def test_version_prints_the_version_of_the_package(ann: Cli) -> None:
    assert ann.ok_within("--version") == f"minitoolai {__version__}\n"


@pytest.mark.parametrize(
    "command",
    [("audit",), ("balance", ANN), ("key", "list", ANN), ("key", "create", ANN), ("voucher", "create", "5"),
     ("key", "revoke", "0aB1cD2eF3gH"), ("credit", "grant", ANN, "5"), ("account", "admin", ANN)],
)  # fmt: skip
def test_a_folder_without_a_database_is_reported_and_stays_without_one(cli: Cli, command: tuple[str, ...]) -> None:
    said = cli.within(*command)
    assert said.status == 1
    assert "there is no database in" in said.err
    assert "minitoolai migrate" in said.err
    assert not cli.database.exists()


def test_an_empty_database_is_reported_and_can_be_migrated(cli: Cli) -> None:
    cli.data_dir.mkdir()
    sqlite3.connect(cli.database).close()
    cli.database.touch()
    assert "run minitoolai migrate" in cli("audit").err
    cli.ok_within("migrate")
    assert cli.ok_within("audit") == "15 invariants hold\n"


def test_migrate_prints_both_revisions_and_can_be_repeated(cli: Cli) -> None:
    assert re.fullmatch(r"migrated from nothing to \d+\n", cli.ok_within("migrate"))
    assert re.fullmatch(r"already at \d+\n", cli.ok_within("migrate"))
    assert cli.ok_within("audit") == "15 invariants hold\n"


def test_models_lists_each_model_with_its_engine_or_the_reason_for_none(cli: Cli) -> None:
    assert re.fullmatch(
        r"fake-chat +chat  \$/1M in, out: +1\.000 +2\.500 +ready +fake  \(up: no key: .*\)\n", cli.ok_within("models")
    )
    cli.catalog.write_text(CATALOG.replace('["up", "fake"]', '["up"]'))
    out = cli.within("models").out
    assert "MISSING  up: " in out
    assert "MINITOOLAI_UP_API_KEY" in out


IMAGES = """
[engines.web]
kind = "webui"

[engines.gpu]
kind = "diffusers"

[engines.sketch]
kind = "sketch"

[image.real]
price = "0.0015"
engines = ["web", "gpu", "sketch"]

[image.dream]
price = "0.0015"
weights = "dream-7"
engines = ["web", "gpu"]
"""


def test_models_reports_that_an_embedded_model_stands_in_for_a_large_one(cli: Cli) -> None:
    cli.catalog.write_text(files("minitoolai").joinpath("catalog.toml").read_text("utf-8"))
    out = cli.with_books().within("models", MINITOOLAI_STAND_INS="sell").out
    small = next(line for line in out.splitlines() if line.startswith("gpt-4o "))
    assert small.endswith(
        "STAND-IN smollm2  (openai: no key: set MINITOOLAI_OPENAI_API_KEY; "
        "qwen: not here: minitoolai fetch qwen2.5-coder-1.5b)"
    )
    assert "\nsmollm2-135m-instruct chat" in out
    examined = cli.within("doctor", "--offline", MINITOOLAI_STAND_INS="sell").out
    assert "WARN   small embedded models stand in for 21 models at full price" in examined
    out = cli.within("models", MINITOOLAI_OPENAI_API_KEY="sk-upstream").out
    assert next(line for line in out.splitlines() if line.startswith("gpt-4o ")).endswith("ready    openai")


def test_models_and_doctor_say_what_a_stand_in_that_is_refused_would_need(cli: Cli) -> None:
    cli.catalog.write_text(files("minitoolai").joinpath("catalog.toml").read_text("utf-8"))
    lines = cli.with_books().within("models").out.splitlines()
    refused = next(line for line in lines if line.startswith("gpt-4o "))
    remedy = "smollm2-135m-instruct is its own model, or set MINITOOLAI_STAND_INS=sell or free"
    assert "MISSING  openai: no key: set MINITOOLAI_OPENAI_API_KEY; " in refused
    assert refused.endswith(f"smollm2: stand-ins answer under serve --demo only; {remedy}")
    examined = cli.within("doctor", "--offline")
    assert re.search(r"^WARN   no engine for \d+ models: .*\bgpt-4o\b.*; see minitoolai models", examined.out, re.M)
    assert examined.out.count("WARN   model ") == 0
    assert "ok     model smollm2-135m-instruct: smollm2" in examined.out
    free = cli.within("models", MINITOOLAI_STAND_INS="free").out
    assert "STAND-IN smollm2, for nothing" in free
    refused = cli.within("models", MINITOOLAI_STAND_INS="refuse").out
    assert "MINITOOLAI_STAND_INS=refuse; smollm2-135m-instruct is its own model" in refused


def test_models_reports_missing_weights_their_folder_and_the_engine_that_stands_in(cli: Cli) -> None:
    cli.catalog.write_text(CATALOG + IMAGES)
    folder = cli.data_dir / "weights"
    cli.env["MINITOOLAI_STAND_INS"] = "sell"
    real, dream, shared = cli.with_books().ok_within("models").splitlines()[1:]
    assert re.search(r"^real +image +\$ each: +0\.0015 +STAND-IN sketch", real)
    assert f"gpu: no file {folder}/real.safetensors: put it there, or a diffusers folder real" in real
    assert "MISSING" in dream
    assert f"no file {folder}/dream-7.safetensors" in dream
    address = "set MINITOOLAI_WEB_BASE_URL=http://host:7860 to a web UI started with --api"
    assert shared == f"  of 2 image models: web: no address: {address}"

    folder.mkdir()
    (folder / "real.safetensors").write_bytes(b"")
    (folder / "dream-7").mkdir()
    real, dream = cli.within("models").out.splitlines()[1:3]
    # With the weights there, only the packages may be missing; only a machine with a GPU needs them.
    assert "no file" not in real
    assert ("ready    gpu" in real) != ("STAND-IN sketch" in real)
    assert f"{folder}/dream-7 is not a diffusers folder (no model_index.json): copy all of it" in dream
    loras = IMAGES.replace("[image.dream]", '[image.real.loras]\npencil = "pencil.safetensors"\n\n[image.dream]')
    cli.catalog.write_text(CATALOG + loras)
    fault = f"LoRA pencil of real cannot be used: no file {folder}/pencil.safetensors: put it there"
    assert cli.within("models").out.splitlines()[-1] == f"  {fault}"
    assert f"WARN   {fault}\n" in cli.within("doctor", "--offline").out
    cli.catalog.write_text(CATALOG + IMAGES)
    real, dream = cli.within("models", MINITOOLAI_WEB_BASE_URL="http://127.0.0.1:7860").out.splitlines()[1:]
    assert real.endswith("ready    web")
    assert dream.endswith("ready    web")


def test_doctor_finds_no_fault_in_a_working_installation(cli: Cli) -> None:
    out = cli.ok_within("doctor")
    assert [line.split()[0] for line in out.splitlines()] == ["ok"] * 6
    for part in ("catalog", "data folder", "database", "pictures", "model fake-chat: fake"):
        assert part in out


def test_doctor_reports_each_fault_with_its_remedy(cli: Cli) -> None:
    cli.with_books()
    cli.catalog.write_text(CATALOG.replace('"1.00"', '"free"'))
    said = cli("doctor")
    assert said.status == 1
    assert 'FAULT  catalog: catalog.toml, line 11: [chat."fake-chat"] input' in said.out
    assert "ok     database" in said.out
    cli.catalog.write_text(CATALOG.replace('["up", "fake"]', '["up"]'))
    said = cli.within("doctor")
    assert said.status == 1
    assert "FAULT  model fake-chat: up: " in said.out


def test_doctor_tries_the_mail_server_unless_offline(cli: Cli) -> None:
    mail = {
        "MINITOOLAI_SMTP_URL": "smtp+plain://127.0.0.1:1",
        "MINITOOLAI_PUBLIC_URL": "https://ai.example.com",
        "MINITOOLAI_MAIL_FROM": "a@example.com",
    }
    cli.with_books()
    said = cli.within("doctor", **mail)
    assert said.status == 1
    assert "FAULT  mail server: 127.0.0.1:1 accepts no e-mail: " in said.out
    # The checks after it are made all the same.
    assert "model fake-chat: fake" in said.out
    assert cli.within("doctor", "--offline", **mail).status == 0


def test_doctor_reports_an_unwritable_object_store_and_leaves_a_working_one_empty(cli: Cli) -> None:
    assert cli.with_books().within("doctor").status == 0
    objects = cli.data_dir / "objects"
    assert [path for path in objects.rglob("*") if path.is_file()] == []
    shutil.rmtree(objects)
    objects.write_text("no folder")
    said = cli("doctor")
    assert said.status == 1
    assert f"FAULT  pictures: cannot write to {objects}" in said.out


def test_doctor_reports_a_file_that_is_not_a_database(cli: Cli) -> None:
    cli.data_dir.mkdir()
    cli.database.write_bytes(b"rubbish" * 1000)
    said = cli("doctor")
    assert said.status == 1
    assert "ok     catalog" in said.out
    assert f"FAULT  database: cannot migrate {cli.database}: file is not a database" in said.out


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("MINITOOLAI_PROT", "1", "MINITOOLAI_PROT is not a setting"),
        ("MINITOOLAI_PORT", "x", "MINITOOLAI_PORT='x' is invalid: expected a number like 8000"),
        ("MINITOOLAI_LOG_LEVEL", "loud", "debug, info, warning or error"),
        ("MINITOOLAI_CATALOG", "/absent/catalog.toml", "set MINITOOLAI_CATALOG to a file"),
        ("MINITOOLAI_OPNAI_API_KEY", "sk-x", "names no engine of the catalog; its engines are fake, up"),
        ("MINITOOLAI_DATABASE_URL", "mysql://ann:pw@h/d", "unset it to use a file in MINITOOLAI_DATA_DIR"),
        ("MINITOOLAI_DATA_DIR", "/proc/nowhere", "cannot create the data folder /proc/nowhere"),
    ],
)
def test_an_invalid_setting_is_reported_with_its_remedy(ann: Cli, variable: str, value: str, words: str) -> None:
    said = ann.within("models", **{variable: value})
    assert (said.status, said.out) == (1, "")
    assert words in said.err
    assert value == "1" or value in ("x", "loud") or "sk-x" not in said.err


def test_an_option_overrides_the_environment_variable(ann: Cli, tmp_path: Path) -> None:
    said = ann.within("balance", ANN, "--data-dir", str(tmp_path / "other"))
    assert said.status == 1
    assert f"there is no database in {tmp_path / 'other'}" in said.err


def test_concurrent_commands_lose_nothing(cli: Cli) -> None:
    cli.with_books().ok_within("account", "create", ANN)
    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(lambda _: cli("credit", "grant", ANN, "1.00"), range(6)))
    assert [said.status for said in done] == [0] * 6
    assert cli.ok_within("balance", ANN).startswith("balance $6.00 ")
    assert cli.ok_within("audit") == "15 invariants hold\n"


def test_help_imports_nothing_heavy_and_prints_within_1_5_s(ann: Cli) -> None:
    times = []
    for _ in range(3):
        began_s = time.monotonic()
        subprocess.run([PROGRAM, "--help"], check=True, capture_output=True, env=ann.env)
        times.append(time.monotonic() - began_s)
    assert min(times) < 1.5


def test_every_command_works_on_postgres(cli: Cli, cluster: Cluster) -> None:
    url = cluster.url(cluster.create())
    there = Cli(cli.data_dir.parent)
    there.env["MINITOOLAI_DATABASE_URL"] = url
    refused = there("balance", ANN)
    assert refused.status == 1
    assert "there is no table in 127.0.0.1" in refused.err
    assert "run minitoolai migrate" in refused.err
    assert re.fullmatch(r"migrated from nothing to \d{4}\n", there.ok_within("migrate"))
    assert re.fullmatch(r"already at \d{4}\n", there.within("migrate").out)
    there.ok_within("account", "create", ANN, "--credit", "5.00")
    assert there.within("account", "create", ANN).status == 1
    key = there.ok_within("key", "create", ANN).strip()
    assert there.ok_within("key", "revoke", key) == f"revoked {key.split('-')[2]}\n"
    assert there.within("credit", "grant", ANN, "1.00", "--reference", "x").out == "balance $6.00\n"
    assert "nothing changed" in there.ok_within("credit", "grant", ANN, "1.00", "--reference", "x")
    assert there.ok_within("audit") == "15 invariants hold\n"
    assert re.search(r"ok     database: 127\.0\.0\.1:\d+/books\d+, all invariants hold", there("doctor").out)
    assert not cli.database.exists()


@pytest.mark.parametrize("url", ["mysql://ann:secret@host/db", "secret", "postgresql://ann:se%cret@host/db"])
def test_an_invalid_database_url_is_refused_without_repeating_it(cli: Cli, url: str) -> None:
    refused = cli.within("audit", MINITOOLAI_DATABASE_URL=url)
    assert refused.status == 1
    assert "MINITOOLAI_DATABASE_URL is not a PostgreSQL address" in refused.err
    assert "secret" not in refused.err + refused.out
    assert "se%cret" not in refused.err + refused.out


def test_an_unreachable_postgres_is_reported_in_one_line(cli: Cli) -> None:
    refused = cli("audit", MINITOOLAI_DATABASE_URL="postgresql://ann:secret@127.0.0.1:9/books")
    assert refused.status == 1
    assert "cannot reach PostgreSQL at 127.0.0.1:9/books" in refused.err
    assert "secret" not in refused.err
    assert refused.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "env", "words"),
    [
        (("--workers", "4"), {}, "4 workers cannot work on SQLite"),
        ((), {"MINITOOLAI_WORKERS": "2"}, "2 workers cannot work on SQLite"),
        ((), {"MINITOOLAI_REUSE_PORT": "1"}, "MINITOOLAI_REUSE_PORT cannot work on SQLite"),
        (("--workers", "0"), {}, "at least one process must serve"),
    ],
)
def test_several_processes_on_sqlite_are_refused_with_the_remedy_postgres(
    cli: Cli, arguments: tuple[str, ...], env: dict[str, str], words: str
) -> None:
    refused = cli.within("serve", "--port", "0", *arguments, **env)
    assert (refused.status, refused.out) == (1, "")
    assert words in refused.err
    assert "PostgreSQL" in refused.err or "0" in arguments
