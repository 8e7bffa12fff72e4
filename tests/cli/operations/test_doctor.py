"""Test the warnings of `minitoolai doctor`, the secret of a first start, and which engines a server starts."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from minitoolai.cli.operations.doctor import MIN_FREE_BYTES, warnings
from minitoolai.core.errors import SettingsError
from minitoolai.paths import catalog_path, load_secret_keys
from minitoolai.settings import Secret, Settings
from tests.support import catalogs, manners
from tests.support.ask import post
from tests.support.books import emptied
from tests.support.server import ServerProcess
from tests.support.studio_http import SKETCH, job, wait
from tests.support.upstream import Upstream
from tests.support.waiting import children_of

#: Fork processes that load the secret at the same moment; each prints the secret that it got.
RACE = """
import os, sys
from pathlib import Path
from minitoolai.settings import Settings
from minitoolai.paths import catalog_path, load_secret_keys
start, go = os.pipe()
results, result = os.pipe()
for _ in range(12):
    if os.fork() == 0:
        os.close(go)
        os.read(start, 1)
        os.write(result, load_secret_keys(Settings(data_dir=Path(sys.argv[1]))).hex().encode() + b"\\n")
        os._exit(0)
os.close(go)
os.close(result)
sys.stdout.write(open(results).read())
"""


def test_processes_that_start_at_the_same_time_share_one_secret(tmp_path: Path) -> None:
    for number in range(5):
        folder = tmp_path / str(number)
        folder.mkdir()
        done = subprocess.run([sys.executable, "-c", RACE, str(folder)], capture_output=True, text=True, check=True)
        secrets = done.stdout.split()
        assert len(secrets) == 12, done
        assert set(secrets) == {(folder / "secret.key").read_bytes().hex()}
        assert [path.name for path in folder.iterdir()] == ["secret.key"]
        assert (folder / "secret.key").stat().st_mode & 0o777 == 0o600
        assert len(bytes.fromhex(secrets[0])) == 32


def test_an_empty_secret_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.key").write_bytes(b"")
    with pytest.raises(SettingsError, match="backup"):
        load_secret_keys(Settings(data_dir=tmp_path))


# ── warnings ────────────────────────────────────────────────────────────────────────────────────────────────


def subjects(settings: Settings) -> set[str]:
    return {warning.partition(":")[0] for warning in warnings(settings)} - {"disk"}


def test_doctor_warns_about_a_public_address_without_public_url(tmp_path: Path) -> None:
    assert subjects(Settings(data_dir=tmp_path)) == set()
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.com"):
        assert subjects(Settings(data_dir=tmp_path, host=host)) == {"address"}
    named = Settings(data_dir=tmp_path, host="0.0.0.0", public_url="https://api.example.com", signup=False)
    assert subjects(named) == set()


def test_doctor_warns_if_the_tokenizer_of_an_engine_with_a_key_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = tmp_path / "catalog.toml"
    named.write_text(catalog_path(Settings()).read_text().replace("# tokenizer =", "tokenizer ="))
    settings = Settings(data_dir=tmp_path, catalog=str(named), engine_keys={"openai": Secret("sk-x")})
    assert subjects(settings) == set()
    # Python treats a module that is None as one that is not installed.
    monkeypatch.setitem(sys.modules, "bpe_openai", None)
    assert [warning for warning in warnings(settings) if not warning.startswith("disk")] == [
        "tokenizer of openai: its package is not installed, so text without a reported usage is counted by its bytes; "
        "pip install bpe-openai"
    ]
    assert subjects(Settings(data_dir=tmp_path, engine_keys={"openai": Secret("sk-x")})) == set()


def test_doctor_warns_about_a_key_of_an_engine_that_no_model_uses(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, engine_keys={"anthropic": Secret("sk-x"), "openai": Secret("sk-y")})
    (line,) = [line for line in warnings(settings) if "API key" in line]
    assert line.startswith("engine anthropic: it has an API key, but no model of the catalog uses it")
    assert "minitoolai catalog import anthropic" in line


def test_marking_that_is_off_is_a_warning_with_its_reason(tmp_path: Path) -> None:
    assert not any(warning.startswith("marks:") for warning in warnings(Settings(data_dir=tmp_path)))
    (warning,) = [each for each in warnings(Settings(data_dir=tmp_path, marks=False)) if each.startswith("marks:")]
    assert "Article 50" in warning
    assert "MINITOOLAI_MARKS=on" in warning


def test_doctor_warns_about_a_disk_that_is_nearly_full(tmp_path: Path) -> None:
    small = Path("/dev/shm")
    is_small = subprocess.run(["df", "-B1", "--output=avail", str(small)], capture_output=True, text=True, check=True)
    free = int(is_small.stdout.split()[1])
    found = [warning for warning in warnings(Settings(data_dir=small)) if warning.startswith("disk:")]
    assert bool(found) == (free < MIN_FREE_BYTES)


def test_doctor_warns_about_an_unsafe_postgres_and_a_secret_stored_on_one_machine(
    tmp_path: Path, postgres_url: str
) -> None:
    emptied(postgres_url)
    name = postgres_url.rpartition("/")[2].partition("?")[0]
    settings = Settings(data_dir=tmp_path, database_url=Secret(postgres_url))
    with psycopg.connect(postgres_url, autocommit=True) as db:
        db.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = off')
        try:
            found = list(warnings(settings))
        finally:
            db.execute(f'ALTER DATABASE "{name}" RESET synchronous_commit')
    assert any("synchronous_commit is off" in warning and "postgresql.conf" in warning for warning in found)
    assert any(warning.startswith("secret:") and "MINITOOLAI_SECRET_KEY" in warning for warning in found)
    shared = Settings(data_dir=tmp_path, database_url=Secret(postgres_url), secret_key=Secret("the same everywhere"))
    assert not any("synchronous_commit" in warning or warning.startswith("secret") for warning in warnings(shared))


# ── embedded engines ──────────────────────────────────────────────────────────────────────────────────────


def engines_of(pid: int) -> list[str]:
    """Return the engine modules that run as children of this process, such as `images.child`."""
    commands = [Path(f"/proc/{child}/cmdline").read_text().split("\0") for child in children_of(pid)]
    return [command[2].removeprefix("minitoolai.engines.") for command in commands if command[1] == "-m"]


@pytest.mark.acceptance
def test_an_embedded_model_is_not_started_if_an_upstream_serves_all_its_models(tmp_path: Path) -> None:
    with Upstream(manners.answer()) as upstream:
        env = {"MINITOOLAI_OPENAI_API_KEY": "sk-test", "MINITOOLAI_OPENAI_BASE_URL": upstream.base_url}
        # Embedded models that are sold under their own names start in any case.
        shipped = Path("catalog.toml").read_text()
        catalog = re.sub(r'\[chat\."(smollm2|qwen)[^\[]*engines = \["\w+"\]\n', "", shipped)
        with ServerProcess(tmp_path, catalog=catalog, env=env) as server:
            assert engines_of(server.pid) == ["speech.child"]
            assert post(server.account(), model="gpt-4o-mini").status_code == 200
            said = server.command("models").stdout
            assert re.search(r"^gpt-4o-mini .* ready +openai$", said, flags=re.MULTILINE), said
            assert engines_of(server.pid) == ["speech.child"]


@pytest.mark.acceptance
def test_the_embedded_image_engine_starts_with_its_first_job(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, catalog=catalogs.FAKE + SKETCH) as server:
        assert engines_of(server.pid) == []
        account = server.account()
        for _ in range(2):
            assert wait(account, job(account, model="realvision"), within_s=60)["status"] == "success"
            assert engines_of(server.pid) == ["images.child"]


@pytest.mark.acceptance
def test_with_several_processes_a_job_starts_an_image_engine(tmp_path: Path, postgres_url: str) -> None:
    env = {"MINITOOLAI_DATABASE_URL": emptied(postgres_url)}
    with ServerProcess(tmp_path, catalog=catalogs.FAKE + SKETCH, env=env).start("--workers", "3") as server:
        assert not any(engines_of(child) for child in children_of(server.pid))
        account = server.account()
        assert wait(account, job(account, model="realvision"), within_s=60)["status"] == "success"
        engines = [name for child in children_of(server.pid) for name in engines_of(child)]
        assert set(engines) == {"images.child"}
