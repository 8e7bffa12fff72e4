"""The threat model names tests that exist; some of them are here."""

from __future__ import annotations

import ast
import asyncio
import hashlib
import hmac
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from tools.sbom import FILES, bill_of_materials, packages

from minitoolai.accounts.keys import KeyVerifier, make_key
from minitoolai.billing.providers.protocol import Incoming
from minitoolai.billing.providers.stripe import build_stripe
from minitoolai.core.errors import AccessDenied, InvalidRequest
from minitoolai.core.models import KeyRules
from minitoolai.http.errors import MESSAGES_PATHS
from minitoolai.paths import load_secret_keys
from minitoolai.settings import Secret, Settings
from minitoolai.storage.tables import accounts
from tests.support import all_kinds
from tests.support.books import FixedClock, TemporaryBooks
from tests.support.server import ServerProcess
from tests.support.waiting import eventually

ROOT = Path(__file__).parent.parent
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs" / "threat-model.md").read_text("utf-8"))


def test_each_line_of_the_threat_model_names_a_test() -> None:
    page = (ROOT / "docs" / "threat-model.md").read_text("utf-8")
    lines = [
        line for line in page.splitlines() if line.startswith("| ") and not line.startswith(("| incident", "| attack"))
    ]
    assert len(lines) >= 14
    assert [line for line in lines if "`tests/" not in line] == []


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_every_named_test_exists(file: str, name: str) -> None:
    assert name.startswith("test_")
    defined = [
        node.name for node in ast.parse((ROOT / file).read_text("utf-8")).body if isinstance(node, ast.FunctionDef)
    ]
    assert name in defined


# ── an empty webhook secret ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("secret", ["", " ", "\n"])
def test_an_empty_webhook_secret_accepts_no_event(secret: str) -> None:
    settings = Settings(stripe_secret_key=Secret("sk_test_1"), stripe_webhook_secret=Secret(secret))
    body, now_s = b'{"id": "evt_1", "object": "event", "type": "checkout.session.completed"}', int(time.time())
    signature = hmac.new(secret.encode(), f"{now_s}.".encode() + body, hashlib.sha256).hexdigest()
    provider = build_stripe(settings)
    assert provider is not None
    with pytest.raises(InvalidRequest, match="Webhooks are not configured"):
        provider.read_report(Incoming({}, {"stripe-signature": f"t={now_s},v1={signature}"}, body))
    provider.close()


# ── media by task ID ──────────────────────────────────────────────────────────────────────────────────────


def test_the_id_of_a_job_opens_nothing_even_with_another_key(server: ServerProcess) -> None:
    owner, thief = server.account(), server.account()
    body = {"model": "painter", "prompt": "a secret garden", "width": 256, "height": 256, "steps": 1}
    made = requests.post(f"{server.url}/api/texttoimage/", json=body, headers=owner.headers, timeout=30)
    job_id, signature = made.json()["jobid"], made.json()["signature"]
    generation = made.headers["x-generation-id"]

    def poll(given: str) -> requests.Response:
        asked = {"jobid": job_id, "signature": given}
        return requests.post(f"{server.url}/api/texttoimage/jobs/", json=asked, headers=thief.headers, timeout=30)

    eventually(lambda: poll(signature).json()["status"] == "success", within_s=30)
    other = requests.post(f"{server.url}/api/texttoimage/", json=body, headers=thief.headers, timeout=30).json()
    jobs = f"{server.url}/api/texttoimage/jobs/{job_id}"
    for given in ("", "x", other["signature"], signature[:-1] + ("A" if signature[-1] != "A" else "B")):
        unknown = requests.post(
            f"{server.url}/api/texttoimage/jobs/", json={"jobid": 1, "signature": given}, timeout=30
        )
        assert (poll(given).status_code, poll(given).json()) == (unknown.status_code, unknown.json())
        for method, url in (("get", f"{jobs}/events"), ("delete", jobs)):
            refused = requests.request(method, url, params={"signature": given}, headers=thief.headers, timeout=30)
            assert refused.status_code in (400, 404), (method, given, refused.text)
    picture = poll(signature).json()["image_url"]
    bare = picture.partition("?")[0]
    assert requests.get(picture, timeout=30).status_code == 200
    assert requests.get(bare, headers=thief.headers, timeout=30).status_code in (400, 403, 404)
    shown = requests.get(f"{server.url}/v1/generations/{generation}", headers=thief.headers, timeout=30)
    assert shown.status_code == 404
    assert "garden" not in shown.text


# ── SQL in the key check ──────────────────────────────────────────────────────────────────────────────────

INJECTIONS = [
    "sk-mt-' OR '1'='1-" + "x" * 32 + "-aaaaaa",
    "sk-mt-abcdefghijkl-" + "x" * 32 + "-aaaaaa' OR 1=1 --",
    "' UNION SELECT id, account_id, name, secret_hmac, 1, NULL, NULL, NULL FROM api_keys --",
    "sk-mt-%-%-%",
    "sk-mt-abcdefghijk\\-" + "x" * 32 + "-aaaaaa",
]


@pytest.mark.parametrize("text", INJECTIONS)
def test_sql_in_a_key_is_refused_without_a_query(books: TemporaryBooks, text: str) -> None:
    key = make_key(books.account(), "right", b"secret", books.clock)
    with books.connection.transaction():
        accounts.insert_key(books.connection, key.row)
    verifier = KeyVerifier(books.database, b"secret", books.clock)
    asked: list[object] = []
    read_async = books.database.read_async

    async def recorded(*arguments: Any) -> Any:
        asked.append(arguments)
        return await read_async(*arguments)

    books.database.read_async = recorded  # type: ignore[method-assign]
    with pytest.raises(AccessDenied):
        asyncio.run(verifier.verify(text))
    assert asked == []
    assert asyncio.run(verifier.verify(key.text)).key_id == key.row.id
    assert len(asked) == 1


@pytest.mark.parametrize("value", ["x' OR '1'='1", "x'; DELETE FROM api_keys; --", "%", "_" * 12])
def test_sql_in_a_value_is_only_a_value(books: TemporaryBooks, value: str) -> None:
    key = make_key(books.account(), value, b"secret", books.clock)
    with books.connection.transaction():
        accounts.insert_key(books.connection, key.row)
    assert accounts.find_key(books.connection, value) is None
    assert accounts.find_account(books.connection, value) is None
    assert accounts.find_key(books.connection, key.row.id) is not None


# ── forms that skip access rules ──────────────────────────────────────────────────────────────────────────


def routes() -> list[tuple[str, str]]:
    """Return method and path of every operation that needs an API key."""
    document: dict[str, Any] = json.loads((ROOT / "src/minitoolai/api/openapi.json").read_text("utf-8"))
    common = document.get("security", [])
    return [
        (method, path)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if method in ("get", "post", "put", "patch", "delete") and operation.get("security", common)
    ]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("threats"), catalog=all_kinds.CATALOG) as started:
        yield started


@pytest.fixture(scope="module")
def keys(server: ServerProcess) -> dict[str, str]:
    """Return a key of the same account for each rule that it breaks."""
    account, found = server.account(), {}
    rules = {
        "address_not_allowed": KeyRules(allow_ip=("192.0.2.1",)),
        "key_expired": KeyRules(expires_ms=1),
    }
    for code, rule in rules.items():
        key = make_key(account.id, code, load_secret_keys(server.settings), FixedClock(), rule)
        server.write(lambda connection, row=key.row: accounts.insert_key(connection, row))
        found[code] = key.text
    return found


@pytest.mark.parametrize(("method", "path"), routes())
def test_every_route_applies_the_rules_of_the_key(
    server: ServerProcess, keys: dict[str, str], method: str, path: str
) -> None:
    url = server.url + re.sub(r"\{\w+\}", "1", path)
    body = {"json": {}} if method != "get" else {}
    for code, key in keys.items():
        refused = requests.request(method, url, headers={"authorization": f"Bearer {key}"}, timeout=20, **body)  # type: ignore[arg-type]
        assert refused.status_code in (401, 403), refused.text
        # Anthropic's format has a type of its own instead of the code.
        kind = {401: "authentication_error", 403: "permission_error"}[refused.status_code]
        assert (kind if path.startswith(MESSAGES_PATHS) else code) in refused.text


# ── poisoned packages ─────────────────────────────────────────────────────────────────────────────────────


def test_the_bill_of_materials_lists_every_pinned_package() -> None:
    document = bill_of_materials(ROOT / name for name in FILES)
    pinned = {line.split("==")[0].split("[")[0] for name in FILES for line in (ROOT / name).read_text().splitlines()
              if re.match(r"[A-Za-z0-9][^=]*==", line)}  # fmt: skip
    listed = {component["name"] for component in document["components"]}
    assert listed == {re.sub(r"[-_.]+", "-", name).lower() for name in pinned}
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    assert re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", document["serialNumber"])
    references = [component["bom-ref"] for component in document["components"]]
    assert len(set(references)) == len(references)
    assert document["dependencies"][0]["dependsOn"] == references
    for component in document["components"]:
        assert component["purl"] == f"pkg:pypi/{component['name']}@{component['version']}"
        assert component["properties"], "each package has the hashes that pip accepts"
    assert document == bill_of_materials(ROOT / name for name in FILES)


def test_a_pinned_package_has_its_version_and_hashes() -> None:
    lines = [
        "# a comment",
        "Foo_Bar[x]==1.2.3 \\",
        f"    --hash=sha256:{'a' * 64} \\",
        f"    --hash=sha256:{'b' * 64}",
        "baz==1",
    ]
    assert list(packages(lines)) == [("foo-bar", "1.2.3", ["a" * 64, "b" * 64]), ("baz", "1", [])]


#: What installs packages → what the same line must say, too. The Makefile installs by $(PIP), which shows progress.
INSTALLS = {r"pip[\"', ]+install|@\$\(PIP\)": "--require-hashes", r"npm[\"'), ]+(?:install|ci)\b": "ci"}
#: Installs without hashes: this program itself, without dependencies; writing lock files; torch, from its own index.
WITHOUT_HASH = re.compile(r"--no-deps (?:--no-build-isolation )?(?:-e )?\.|--package-lock-only|torch")


def installing_files() -> list[Path]:
    """Return the programs and scripts of the repository that install packages."""
    folders = ("tests/clients", "tests/support", "bench", "ops", ".ci")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    kinds, hidden = (".py", ".sh", "", ".yaml"), {".cache", "__pycache__"}
    scripts = [path for path in found if path.suffix in kinds and not hidden & set(path.parts)]
    return [ROOT / "Makefile", ROOT / "tools" / "pin.sh", *scripts]


def test_every_package_that_is_installed_is_checked_by_its_hash() -> None:
    guilty, count = [], 0
    for path in installing_files():
        for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1):
            for pattern, needed in INSTALLS.items():
                is_checked = re.search(rf"(?<![\w-]){needed}\b", line) or WITHOUT_HASH.search(line)
                count += bool(re.search(pattern, line))
                if re.search(pattern, line) and not is_checked:
                    guilty.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert guilty == []
    assert count > 8


REQUIREMENTS = sorted(
    [*ROOT.glob("requirements*.txt"), *(ROOT / "bench" / "pins").glob("*.txt"), ROOT / "tests/clients/litellm.txt"]
)


@pytest.mark.parametrize("path", REQUIREMENTS, ids=lambda path: path.name)
def test_every_pinned_package_has_a_hash(path: Path) -> None:
    found = list(packages(path.read_text("utf-8").splitlines()))
    assert found
    assert [name for name, _, hashes in found if not hashes] == []


@pytest.mark.parametrize("folder", ["tests/node"])
def test_every_package_of_node_has_a_hash(folder: str) -> None:
    lock = json.loads((ROOT / folder / "package-lock.json").read_text("utf-8"))["packages"]
    wanted = json.loads((ROOT / folder / "package.json").read_text("utf-8"))["dependencies"]
    assert lock[""]["dependencies"] == wanted
    assert {f"node_modules/{name}" for name in wanted} <= set(lock)
    installed = {name: entry for name, entry in lock.items() if name and "inBundle" not in entry}
    assert [name for name, entry in installed.items() if not entry.get("integrity", "").startswith("sha512-")] == []
