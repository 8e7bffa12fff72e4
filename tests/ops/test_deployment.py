"""Units, containers and how-tos agree with the program: settings, commands, options and limits exist."""

from __future__ import annotations

import configparser
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from tools.reference import commands

from minitoolai.core.catalog.loader import read_catalog
from minitoolai.http.bodies.bodies import LARGEST_BODY
from minitoolai.settings import PREFIX, load_settings, variables

ROOT = Path(__file__).parent.parent.parent
OPS = ROOT / "ops"
HOWTOS = sorted((ROOT / "docs" / "howto").glob("*.md"))
UNITS = sorted((OPS / "systemd").glob("*.service"))
FILES = [*HOWTOS, *UNITS, OPS / "Containerfile", OPS / "compose.yaml", OPS / "minitoolai.env"]


def unit(path: Path) -> dict[str, dict[str, str]]:
    """Return section → key → value."""
    parser = configparser.ConfigParser(strict=True, interpolation=None, comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(path.read_text())
    return {name: dict(parser[name]) for name in parser.sections()}


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((OPS / "compose.yaml").read_text())
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_named_setting_exists(path: Path) -> None:
    engine = re.compile(PREFIX + r"[A-Z0-9<>]+_(API_KEY|BASE_URL)")
    named = set(re.findall(PREFIX + r"[A-Z0-9_<>]+", path.read_text()))
    # The chaos tests and clients read variables that are not settings of the server.
    assert {name for name in named if name not in variables() and not engine.fullmatch(name)} <= OF_OTHERS


OF_OTHERS = {"MINITOOLAI_URL", "MINITOOLAI_KEY"}


@pytest.mark.parametrize("path", HOWTOS, ids=lambda path: path.name)
def test_every_named_command_and_option_exists(path: Path) -> None:
    parsers = commands()
    for line in re.findall(r"(?:^|[`|;&]\s*)minitoolai ([a-z][^`\n|;&]*)", path.read_text(), flags=re.MULTILINE):
        words = line.split()
        name = next((" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in parsers), None)
        assert name or any(known.startswith(words[0] + " ") for known in parsers), line
        if name:
            options = {o for action in parsers[name]._actions for o in action.option_strings}
            for word in words:
                if word.startswith("--"):
                    assert word.partition("=")[0] in options, line


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_runs_an_existing_command_with_enough_time_and_few_rights(path: Path) -> None:
    service = unit(path)["Service"]
    program, *arguments = service["ExecStart"].split()
    folder, name = program.rsplit("/", 1)
    assert folder == "/opt/minitoolai/.venv/bin"
    if name == "ray":
        # Without a token, everybody who reaches the ports could run code.
        assert service["EnvironmentFile"] == "/etc/minitoolai/ray.env"
        assert "RAY_AUTH_MODE=token\n" in (OPS / "ray.env").read_text()
        assert arguments[0] == "start"
    else:
        assert name == "minitoolai"
        assert arguments[0] in commands()
    default_s = load_settings({}).drain_timeout_s
    assert int(service["TimeoutStopSec"]) > default_s + 20
    assert service["KillMode"] == "mixed"
    for key, value in {
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "ProtectHome": "yes",
        "CapabilityBoundingSet": "",
        "User": "minitoolai",
        "RestrictNamespaces": "yes",
    }.items():
        assert service[key] == value
    # The image and speech libraries generate code at run time, so memory must be executable.
    assert "MemoryDenyWriteExecute" not in service
    assert "EnvironmentFile" in service
    assert "Environment" not in service, "every user can read secrets in a unit"


def test_the_program_accepts_the_settings_file() -> None:
    lines = (OPS / "minitoolai.env").read_text().splitlines()
    given = dict(line.lstrip("#").split("=", 1) for line in lines if line.lstrip("#").startswith(PREFIX))
    settings = load_settings(given)
    assert settings.workers == 2
    assert settings.log_format == "json"


def test_the_container_runs_unprivileged_and_installs_by_hash() -> None:
    text = (OPS / "Containerfile").read_text()
    steps = re.sub(r"\\\n", " ", text).splitlines()
    known = "FROM|WORKDIR|COPY|RUN|ENV|USER|VOLUME|EXPOSE|STOPSIGNAL|HEALTHCHECK|ENTRYPOINT|CMD"
    assert all(re.match(rf"(#|\s*$|\s|({known}) )", step) for step in steps)
    assert "--require-hashes" in text
    assert [step for step in steps if step.startswith("USER ")][-1] == "USER 10001"
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", text, flags=re.MULTILINE):
        for name in source.split():
            assert (ROOT / name).exists(), name
    command = re.findall(r'^CMD \["(\w+)"\]', text, flags=re.MULTILINE)
    assert command == ["serve"]


def pins(name: str) -> dict[str, str]:
    """Return package → version."""
    return dict(re.findall(r"^([\w.-]+)(?:\[[\w,]+\])?==(\S+)", (ROOT / name).read_text(), flags=re.MULTILINE))


def test_the_tracing_packages_are_compatible_and_the_tested_versions() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["otel"]
    otel = pins("requirements-otel.txt")
    assert {one.partition(">=")[0] for one in wanted} <= set(otel)
    known = pins("requirements-dev.txt") | pins("requirements.txt")
    assert {name: version for name, version in otel.items() if known.get(name) != version} == {}
    assert "-r requirements-otel.txt" in (OPS / "Containerfile").read_text()


def test_ray_is_pinned_to_one_release_and_not_part_of_an_installation() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    ray = pins("requirements-ray.txt")
    assert extras["ray"] == ["ray>=2.60,<2.61"]
    assert ray["ray"].startswith("2.60.")
    installed = pins("requirements.txt")
    known = pins("requirements-dev.txt") | installed
    assert {name for name, version in ray.items() if known.get(name) != version} == {"ray", "msgpack"}
    assert "ray" not in installed
    makefile = (ROOT / "Makefile").read_text()
    rules = re.findall(r"^(\S+):[^\n]*requirements-ray\.txt", makefile, flags=re.MULTILINE)
    assert rules == ["$(VENV)/.dev"]


def test_the_example_proxy_passes_streams_and_the_largest_request() -> None:
    text = (OPS / "nginx" / "minitoolai.conf").read_text()
    given = dict(re.findall(r"^\s+(\w+) ([^;]+);$", text, flags=re.MULTILINE))
    assert given["proxy_buffering"] == "off"
    assert given["proxy_next_upstream"] == "off"
    assert int(given["client_max_body_size"].removesuffix("m")) * 1024**2 == LARGEST_BODY
    assert int(given["proxy_read_timeout"].removesuffix("s")) > load_settings({}).total_timeout_s
    assert text.count("{") == text.count("}")


def test_the_proxies_for_several_machines_never_send_a_request_twice_and_notice_a_lost_machine() -> None:
    text = (OPS / "nginx" / "minitoolai-machines.conf").read_text()
    given = dict(re.findall(r"^\s+(\w+) ([^;]+);$", text, flags=re.MULTILINE))
    assert "non_idempotent" not in given["proxy_next_upstream"]
    assert given["proxy_connect_timeout"] == "500ms"
    assert int(given["client_max_body_size"].removesuffix("m")) * 1024**2 == LARGEST_BODY
    haproxy = (OPS / "haproxy" / "haproxy.cfg").read_text()
    assert re.findall(r"retry-on (.+)", haproxy) == ["conn-failure"]
    assert "option httpchk GET /readyz" in haproxy
    for name in ("client", "server"):
        (timeout_s,) = re.findall(rf"^    timeout {name} (\d+)s$", haproxy, flags=re.MULTILINE)
        assert int(timeout_s) > load_settings({}).total_timeout_s


def test_compose_gives_each_service_only_what_it_needs() -> None:
    services = compose()["services"]
    assert set(services) == {"serve", "worker", "postgres"}
    for name in ("serve", "worker"):
        service = services[name]
        assert service["command"][0] == name
        assert name in commands()
        assert (OPS / service["build"]["context"] / service["build"]["dockerfile"]).exists()
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["depends_on"]["postgres"]["condition"] == "service_healthy"
        assert int(service["stop_grace_period"].removesuffix("s")) > load_settings({}).drain_timeout_s + 20
        assert "${POSTGRES_PASSWORD:?" in service["environment"]["MINITOOLAI_DATABASE_URL"]
        # Both use the same secret, from the volume that they share.
        assert service["volumes"] == ["data:/data"]
    open_to_others = [port for service in services.values() for port in service.get("ports", [])]
    assert open_to_others == ["127.0.0.1:8000:8000"]
    named = {volume.split(":")[0] for service in services.values() for volume in service["volumes"]}
    assert named == set(compose()["volumes"])


def test_the_program_accepts_the_catalog_of_the_howto(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "howto" / "provider.md").read_text()
    blocks = re.findall(r"```toml\n(.*?)```", text, flags=re.DOTALL)
    catalog = "\n".join(line.strip() for block in blocks for line in block.splitlines())
    assert set(tomllib.loads(catalog)) == {"engines", "chat"}
    path = tmp_path / "catalog.toml"
    path.write_text(catalog)
    assert read_catalog(path).chat_model("gpt-4o-mini").engines == ("acme",)
