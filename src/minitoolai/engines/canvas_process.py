"""An image engine in a child process: its crash, its hang, its memory are its own, and no chat waits for it."""

from __future__ import annotations

from minitoolai.core.errors import EngineError
from minitoolai.engines.base_images import CanvasEngine, DrawnImage, ImageRequest, OnProgress

#: Nothing heard from the child for this long, not even its heart: it is killed and started again.
SILENCE_S = 10.0
#: One model call and its decoding may take this long.
STEP_TIMEOUT_S = 300.0


class CanvasProcess:
    """Hosts one canvas engine. Pictures with the same batch key share model calls, joining and leaving between them.

    `module` has a function `make_canvas_engine(config) -> CanvasEngine`; `config` is plain data, for it travels.
    """

    def __init__(
        self,
        name: str,
        module: str,
        config: dict[str, object],
        *,
        rows: int,
        silence_s: float = SILENCE_S,
        step_timeout_s: float = STEP_TIMEOUT_S,
    ) -> None:
        self.name = name
        self.rows = rows
        self._module, self._config = module, config
        self._silence_s, self._step_timeout_s = silence_s, step_timeout_s
        self._facts: CanvasEngine = _make(module, config)

    def why_not_ready(self, model: str) -> str | None:
        return self._facts.why_not_ready(model)

    def batch_key(self, model: str, width: int, height: int) -> str:
        return self._facts.batch_key(model, width, height)

    async def start(self) -> None:
        raise EngineError(f"{self.name} cannot be started yet")

    async def stop(self) -> None:
        return

    async def draw(self, model: str, request: ImageRequest, on_progress: OnProgress) -> DrawnImage:
        raise EngineError(f"{self.name} cannot draw yet")


def _make(module: str, config: dict[str, object]) -> CanvasEngine:
    from importlib import import_module

    engine: CanvasEngine = import_module(module).make_canvas_engine(config)
    return engine
