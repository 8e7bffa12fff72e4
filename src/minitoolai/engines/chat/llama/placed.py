"""A language model on llama.cpp servers that a worker has placed on a cluster. Tokens go by HTTP, not through Ray."""

from __future__ import annotations

from minitoolai.core.catalog.catalog import EngineEntry
from minitoolai.core.catalog.suppliers import EngineLabel
from minitoolai.core.inference import ChatRequest
from minitoolai.engines.chat.addresses import AddressPool
from minitoolai.engines.chat.llama.engine import FIRST_TOKEN_TIMEOUT_S, LlamaEngine, unsupported_field
from minitoolai.engines.chat.llama.memory import MAX_SLOTS
from minitoolai.engines.chat.openai import UpstreamEngine
from minitoolai.engines.concurrency import ConcurrencyLimit
from minitoolai.engines.servers import ServerOffer
from minitoolai.httpclient.client import HttpClient


class PlacedLlama(UpstreamEngine):
    """An upstream with the addresses that workers report: least requests in flight, a circuit breaker for each."""

    def __init__(
        self, name: str, entry: EngineEntry, client: HttpClient, *, slots: int, queue: int, total_timeout_s: float
    ) -> None:
        """`slots`: of one server; 0: as many as llama.cpp gets by default here."""
        limit = ConcurrencyLimit((slots or MAX_SLOTS) * entry.copies, queue, name)
        upstream = EngineEntry("upstream", forwards=tuple(LlamaEngine.forwards))
        super().__init__(name, upstream, client, concurrency=limit, total_timeout_s=total_timeout_s)
        self.label = EngineLabel.of(name, entry)
        self.sells_cache = self.bills_after_cancel = self.complete_chunks = self.fetches_images = False
        self.token_events = True
        self.first_token_timeout_s = entry.first_token_timeout_s or FIRST_TOKEN_TIMEOUT_S
        self._context = entry.context
        self._pool = self._addresses = AddressPool(())

    def set_servers(self, offers: list[ServerOffer]) -> None:
        """Use these servers from now on. Requests in progress on others are not touched."""
        self._pool.replace({f"{offer.address}/v1": offer.secret for offer in offers})

    def why_not_ready(self) -> str | None:
        return None if self._pool else "no server of it is up: run minitoolai worker --ray"

    def context_tokens(self) -> int | None:
        return self._context

    def unsupported_field(self, request: ChatRequest) -> str | None:
        return unsupported_field(request)
