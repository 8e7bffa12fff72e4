"""Test the composition root: which services `build` makes from the settings and the catalog."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minitoolai.bootstrap import Services, build
from minitoolai.core.errors import CatalogError, SettingsError
from minitoolai.settings import Secret, Settings
from tests.support import catalogs
from tests.support.studio_http import CATALOG as IMAGES

SPEECH = """
[speech.quick]
price = "15.00"
max_characters = 10_000
voice = "tone"
voices = [{ id = "tone", engine = "quick", language = "en", licence = "none" }]
"""


@pytest.fixture
def built(tmp_path: Path) -> Callable[..., Services]:
    """Return a function that builds the services of a catalog with these settings."""

    def make(catalog: str = catalogs.FAKE + IMAGES, **settings: Any) -> Services:
        path = tmp_path / "catalog.toml"
        path.write_text(catalog)
        return build(Settings(data_dir=tmp_path / "data", catalog=path, **settings))

    return make


def test_every_model_of_the_catalog_has_its_engine(built: Callable[..., Services]) -> None:
    services = built(catalogs.FAKE + IMAGES + SPEECH)
    offers = {offer.model.name: offer.engine for offer in services.reports.offers()}
    assert offers["quick"] == "quick"
    assert (offers["flat"], offers["slow"]) == ("flat", "slow")
    assert set(services.chats.catalog.engines) >= set(services.engines) >= {"quick", "paced", "endless"}
    assert set(services.speech_engines) >= {"quick"}
    assert set(services.images.engines) == {"flat", "slow"}


def test_all_services_share_one_writer_and_one_registry_of_responses(built: Callable[..., Services]) -> None:
    services = built()
    shared = services.shared
    assert services.writer is shared.writer
    assert services.in_flight is shared.in_flight
    assert services.chats.charging is services.speech.charging is shared.charging
    assert services.metric_sources().shared is shared


def test_a_server_leaves_engines_on_ray_alone_and_never_imports_ray(
    built: Callable[..., Services], tmp_path: Path
) -> None:
    placed = (catalogs.FAKE + IMAGES).replace("[engines.flat]\n", '[engines.flat]\nplacement = "ray"\nmax = 3\n')
    services = built(placed)
    worker, engines = services.images.worker, services.images.engines
    assert (worker.models_of(engines["flat"]), worker.models_of(engines["slow"])) == ([], ["slow"])
    # In a process of its own, because tests of Ray may have imported it here.
    script = (
        "import sys; from pathlib import Path; from minitoolai import app; from minitoolai.bootstrap import build; "
        f"from minitoolai.settings import Settings; folder = Path({str(tmp_path)!r}); "
        "build(Settings(data_dir=folder / 'other', catalog=str(folder / 'catalog.toml'))); "
        "print([name for name in sys.modules if name == 'ray' or 'engines.ray' in name])"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert shown.stdout == "[]\n"


def test_tracing_is_built_only_with_a_collector(built: Callable[..., Services]) -> None:
    services = built()
    assert (services.tracing, services.shared.spans) == (None, None)
    services = built(otlp_endpoint="http://127.0.0.1:9")
    assert services.tracing is not None
    assert services.shared.spans is services.tracing.spans
    services.tracing.close()


def test_an_invalid_catalog_or_setting_is_refused(built: Callable[..., Services]) -> None:
    with pytest.raises(CatalogError, match="input"):
        built(catalogs.FAKE.replace('"0.15"', '"free"', 1))
    with pytest.raises(SettingsError, match="MINITOOLAI_OTLP_ENDPOINT"):
        built(otlp_endpoint="127.0.0.1:4318")
    with pytest.raises(SettingsError, match="MINITOOLAI_DATABASE_URL"):
        built(database_url=Secret("mysql://ann:pw@host/books"))
