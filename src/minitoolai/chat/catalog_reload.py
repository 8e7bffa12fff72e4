"""Replace the catalog of a running process: prices, models and upstreams change, and no stream is interrupted.

Responses in flight keep their engine and their prices. Embedded engines, voices and image engines have processes and
files behind them, so a change to those needs a restart, and is refused as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import msgspec

from minitoolai.chat.service import ChatService
from minitoolai.core.catalog import Catalog
from minitoolai.core.errors import CatalogError
from minitoolai.engines.protocols import ChatEngine

MakeEngine = Callable[[Catalog, str], ChatEngine]


class CatalogReload:
    """Read the catalog again and replace the one in use, in one step of the event loop."""

    def __init__(
        self, read: Callable[[], Catalog], chats: ChatService, engines: dict[str, ChatEngine], make: MakeEngine
    ) -> None:
        """Prepare. `engines` is the mapping that the chat service uses; `make` creates an engine of a catalog."""
        self._read = read
        self._chats = chats
        self._engines = engines
        self._make = make

    def reload(self) -> str:
        """Return a summary of what changed. Raise CatalogError or SettingsError, and change nothing, for a mistake."""
        old, new = self._chats.catalog, self._read()
        used = {name for model in [*new.chat.values(), *new.embeddings.values()] for name in model.engines}
        not_running = sorted(name for name in used - self._engines.keys() if not new.engines[name].is_upstream)
        reasons = [*why_restart(old, new), *(f"[engines.{name}] is not running" for name in not_running)]
        if reasons:
            raise CatalogError(f"{'; '.join(reasons)}: restart the server for this change")
        made = {
            name: self._make(new, name)
            for name in used
            if name not in self._engines or new.engines[name] != old.engines.get(name)
        }
        summary = _summary(old, new)
        for name in self._engines.keys() - used:
            del self._engines[name]
        self._engines.update(made)
        old.replace(new)
        self._chats.routes.on_catalog_change(made)
        return summary


def why_restart(old: Catalog, new: Catalog) -> Iterator[str]:
    """Yield what the new catalog changes that a running process cannot change."""
    fixed = {name for model in new.speech.values() for name in model.engines}
    fixed |= {name for model in new.images.values() for name in model.engines}
    for name, entry in new.engines.items():
        before = old.engines.get(name)
        if entry != before and (name in fixed or not entry.is_upstream or (before and not before.is_upstream)):
            yield f"[engines.{name}] {'is new' if before is None else 'has changed'}"
    for section, mine, theirs in (("speech", old.speech, new.speech), ("image", old.images, new.images)):
        for name in mine.keys() ^ theirs.keys():
            yield f"[{section}.{name}] {'is new' if name in theirs else 'is gone'}"
        for name in mine.keys() & theirs.keys():
            if msgspec.structs.replace(mine[name], price=0) != msgspec.structs.replace(theirs[name], price=0):
                yield f"[{section}.{name}] has changed in more than its price"


def _summary(old: Catalog, new: Catalog) -> str:
    mine, theirs = old.models(), new.models()
    changed = sum(mine[name] != theirs[name] for name in mine.keys() & theirs.keys())
    engines = _changes(old.engines, new.engines)
    return (
        f"{len(theirs.keys() - mine.keys())} models added, {len(mine.keys() - theirs.keys())} removed, "
        f"{changed} changed; {engines} engines changed"
    )


def _changes(old: Mapping[str, object], new: Mapping[str, object]) -> int:
    return sum(old.get(name) != new.get(name) for name in old.keys() | new.keys())
