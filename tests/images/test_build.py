"""Tests of building the image slice from settings."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minitoolai.bootstrap import Services, build
from minitoolai.core.errors import SettingsError
from minitoolai.settings import load_settings


def check(folder: Path, test: Callable[[Services], None], **settings: Any) -> None:
    """Build all services in an event loop and pass them to the test."""

    async def run() -> None:
        services = build(load_settings({}, data_dir=folder, **settings))
        try:
            test(services)
        finally:
            services.database.close()

    asyncio.run(run())


def test_links_start_with_the_public_url(tmp_path: Path) -> None:
    def test(services: Services) -> None:
        link = services.images.delivery.links.link(7)
        assert link.startswith("https://api.example.com/api/texttoimage/pictures/7.png?expires=")

    check(tmp_path, test, public_url="https://api.example.com/")


def test_links_and_webhook_secrets_use_different_keys(tmp_path: Path) -> None:
    def test(services: Services) -> None:
        first = services.images.webhook_secrets.secret_for(1)
        assert first != services.images.webhook_secrets.secret_for(2)
        assert first.removeprefix("whsec_") not in services.images.delivery.links.link(1)

    check(tmp_path, test)


def test_sketch_engines_start_on_demand_in_a_single_process_on_sqlite(tmp_path: Path) -> None:
    def test(services: Services) -> None:
        state = services.images.worker.state
        sketches = {name for name, entry in services.images.service.catalog.engines.items() if entry.kind == "sketch"}
        assert sketches
        assert (state.start_on_demand, state.single_process) == (sketches, True)

    check(tmp_path, test)


def test_every_image_engine_of_the_catalog_is_built(tmp_path: Path) -> None:
    def test(services: Services) -> None:
        images = services.images
        named = {name for model in images.service.catalog.images.values() for name in model.engines}
        assert named == set(images.engines)

    check(tmp_path, test)


@pytest.mark.parametrize(
    ("setting", "value", "name"),
    [("public_url", "api.example.com", "PUBLIC_URL"), ("prompt_policy", "strict", "PROMPT_POLICY")],
)
def test_a_wrong_image_setting_is_refused_and_named(tmp_path: Path, setting: str, value: str, name: str) -> None:
    with pytest.raises(SettingsError, match=f"MINITOOLAI_{name}"):
        check(tmp_path, lambda services: None, **{setting: value})
