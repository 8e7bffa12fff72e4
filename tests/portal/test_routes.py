"""Which paths belong to the portal, and that each page module is registered."""

from __future__ import annotations

import pkgutil

import pytest

from minitoolai.portal import pages
from minitoolai.portal.i18n import LANGUAGES
from minitoolai.portal.routes import MODULES, is_portal_path


@pytest.mark.parametrize("path", ["/", *(f"/{lang}/keys" for lang in LANGUAGES), "/en", "/static/x/y", "/robots.txt"])
def test_paths_of_the_portal(path: str) -> None:
    assert is_portal_path(path)


@pytest.mark.parametrize("path", ["/v1/models", "/api/balance", "/healthz", "/EN/", "/english/", "/xx/", "/robots"])
def test_paths_of_the_api(path: str) -> None:
    assert not is_portal_path(path)


def test_every_page_module_is_registered() -> None:
    found = pkgutil.walk_packages(pages.__path__, f"{pages.__name__}.")
    assert {module.__name__ for module in MODULES} == {module.name for module in found if not module.ispkg}
