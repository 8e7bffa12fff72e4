"""The Kubernetes manifests are valid and agree with the program: paths, settings, commands, time-outs and queue."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from tools.reference import commands

from minitoolai.core.errors import StoreError
from minitoolai.settings import load_settings, variables
from tests.support.books import TemporaryBooks

FOLDER = Path(__file__).parent.parent.parent / "ops" / "kubernetes"
#: The newest version whose schemas come with kubernetes-validate that clusters run, and an older one.
VERSIONS = ("1.30", "1.33")


def documents(name: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all((FOLDER / name).read_text()) if one]


MANIFESTS = documents("minitoolai.yaml")


def find(kind: str, name: str) -> dict[str, Any]:
    (found,) = [one for one in MANIFESTS if one["kind"] == kind and one["metadata"]["name"] == name]
    return found


def pod(kind: str, name: str) -> dict[str, Any]:
    spec: dict[str, Any] = find(kind, name)["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda one: f"{one['kind']} {one['metadata']['name']}")
def test_every_manifest_fits_the_schema_of_kubernetes(manifest: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(manifest, version, strict=True)


def test_a_manifest_with_a_misspelt_field_would_be_refused() -> None:
    broken = yaml.safe_load(yaml.safe_dump(find("Deployment", "minitoolai-serve")))
    broken["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[-1], strict=True)


def test_the_kustomization_names_every_file_and_image() -> None:
    (kustomization,) = documents("kustomization.yaml")
    assert {*kustomization["resources"], "kustomization.yaml"} == {path.name for path in FOLDER.glob("*.yaml")}
    used = set(re.findall(r"image: (\S+)", (FOLDER / "minitoolai.yaml").read_text()))
    assert used == {image["name"] for image in kustomization["images"]}


@pytest.mark.parametrize(
    ("kind", "name", "command"),
    [
        ("Job", "minitoolai-migrate", "migrate"),
        ("Deployment", "minitoolai-serve", "serve"),
        ("Deployment", "minitoolai-worker", "worker"),
    ],
)
def test_a_pod_runs_a_command_with_known_settings_and_few_rights(kind: str, name: str, command: str) -> None:
    spec = pod(kind, name)
    (container,) = spec["containers"]
    assert container["args"] == [command]
    assert command in commands()
    given = {one["name"]: one["value"] for one in container["env"]}
    assert set(given) <= set(variables())
    load_settings(given | {"MINITOOLAI_METRICS_TOKEN": "x" * 32})
    assert spec["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    if kind == "Deployment":
        assert spec["terminationGracePeriodSeconds"] > load_settings({}).drain_timeout_s + 20
        probes = {container[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
        assert probes == {"/healthz", "/readyz"}


def test_a_service_and_a_disruption_budget_select_the_servers() -> None:
    labels = find("Deployment", "minitoolai-serve")["spec"]["template"]["metadata"]["labels"]
    assert find("Service", "minitoolai")["spec"]["selector"] == labels
    assert find("PodDisruptionBudget", "minitoolai-serve")["spec"]["selector"]["matchLabels"] == labels


def test_the_query_that_scales_the_workers_runs(books: TemporaryBooks) -> None:
    authentication, scaled = documents("keda.yaml")
    (trigger,) = scaled["spec"]["triggers"]
    assert trigger["authenticationRef"]["name"] == authentication["metadata"]["name"]
    assert scaled["spec"]["scaleTargetRef"]["name"] == "minitoolai-worker"
    assert books.rows(trigger["metadata"]["query"]) == [(0,)]
    with pytest.raises(StoreError):
        books.rows(trigger["metadata"]["query"].replace("state", "status"))
