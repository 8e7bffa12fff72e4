"""Enlarge images with the operator's ONNX model, in a child process for each image.

The model takes (1, 3, h, w) from 0 to 1, RGB, and returns the same k times as large, as Real-ESRGAN and its relatives
do. A large image is enlarged in tiles that overlap, so memory does not grow with it. One image at a time is enlarged:
a model may need all processors. The child ends afterwards, which gives its memory back.
"""

from __future__ import annotations

import asyncio
import io
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec

from minitoolai.core.errors import EngineError
from minitoolai.engines.child_process import child_environment, enter_child, read_frame, to_frame

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

EXTENSION = ".onnx"
#: Side of a tile without its margins, unless the model has a fixed input size, and the margin, which is cut off again.
TILE, MARGIN = 256, 16
#: More than this times as large is no upscaler.
_MAX_FACTOR = 8
_TIMEOUT_S = 300.0
_NICENESS = 5
#: Starts the child.
_COMMAND = (sys.executable, "-m", "minitoolai.engines.images.upscaling")


class UpscaleTask(msgspec.Struct, frozen=True):
    """The task of the child: a model file, and an RGB image as PNG."""

    model: str
    png: bytes


class Upscaled(msgspec.Struct, frozen=True):
    """The reply of the child: the enlarged image as PNG, or its fault."""

    png: bytes = b""
    error: str = ""


class Upscaler:
    """The ONNX models of the catalog, by name of the image model that uses them."""

    def __init__(
        self, files: Mapping[str, Path], *, timeout_s: float = _TIMEOUT_S, command: Sequence[str] = _COMMAND
    ) -> None:
        self._files, self._timeout_s, self._command = files, timeout_s, command
        self._turn = asyncio.Lock()

    def faults(self) -> list[str]:
        """Return which files are missing, for the operator."""
        return [
            f"upscaler of {model} cannot be used, images are enlarged by Lanczos's filter: no file {path}: put it there"
            for model, path in self._files.items()
            if not path.is_file()
        ]

    async def enlarge(self, model: str, png: bytes) -> tuple[str, bytes] | None:
        """Return the name of the upscaler of a model and the enlarged image.

        Return None if the model has no upscaler, or if it failed, which is logged. Cancelling the call kills the child.
        """
        path = self._files.get(model)
        if path is None:
            return None
        async with self._turn:
            try:
                return path.stem, await self._run(UpscaleTask(str(path), png))
            except EngineError as error:
                log.error("upscaler %s of %s failed, falling back to Lanczos: %s", path.name, model, error.message)
                return None

    async def _run(self, task: UpscaleTask) -> bytes:
        child = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=child_environment(),
        )
        try:
            async with asyncio.timeout(self._timeout_s):
                output, _ = await child.communicate(to_frame(task))
        except TimeoutError:
            raise EngineError(f"it took more than {self._timeout_s:g} s") from None
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        frame = read_frame(io.BytesIO(output))
        if frame is None:
            raise EngineError(f"its process ended with status {child.returncode}")
        reply = msgspec.msgpack.decode(frame, type=Upscaled)
        if reply.error:
            raise EngineError(reply.error)
        return reply.png


# ── in the child ──────────────────────────────────────────────────────────────────────────────────────────────


class UpscaleModel:
    """A loaded model and the size of the tiles that it takes."""

    def __init__(self, path: Path) -> None:
        """Load the file. Raises any exception of ONNX Runtime, and ValueError if its input is no image."""
        import onnxruntime

        options: Any = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers = [name for name in _PROVIDERS if name in onnxruntime.get_available_providers()]
        self._session = onnxruntime.InferenceSession(path, options, providers=providers)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in _TYPES or len(outputs) != 1:
            shown = ", ".join(f"{one.name} {one.type} {one.shape}" for one in inputs)
            raise ValueError(f"its input is {shown}; it must be one image, float (1, 3, height, width)")
        self._input, self._type = inputs[0].name, _TYPES[inputs[0].type]
        height, width = inputs[0].shape[2:]
        fixed = [side for side in (height, width) if isinstance(side, int) and side > 0]
        #: Side of a whole tile: all tiles have this size if the model takes no other.
        self.side = min(fixed) if fixed else TILE + 2 * MARGIN
        self.is_fixed = bool(fixed)
        if self.is_fixed and (len(set(fixed)) > 1 or len(fixed) < 2 or self.side <= 2 * MARGIN):
            raise ValueError(f"its input is {height} by {width}; a fixed size must be square and over {2 * MARGIN}")

    def run(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Enlarge one tile, (h, w, 3) from 0 to 1. Raises ValueError if the result is no enlarged image."""
        import numpy as np

        given = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None].astype(self._type))
        output = np.asarray(self._session.run(None, {self._input: given})[0], np.float32)
        height, width = pixels.shape[:2]
        factor = output.shape[-1] / width if output.ndim == 4 and width else 0.0
        expected = (1, 3, round(height * factor), round(width * factor))
        if not 1 <= factor <= _MAX_FACTOR or factor % 1 or output.shape != expected:
            raise ValueError(f"it made {list(output.shape)} of {list(given.shape)}, which is no enlarged image")
        if not np.isfinite(output).all():
            raise ValueError("it gave values that are not finite (NaN)")
        enlarged: NDArray[np.float32] = output[0].transpose(1, 2, 0)
        return enlarged

    def enlarge(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Enlarge an image (h, w, 3), tile by tile. Raises ValueError like `run`."""
        import numpy as np

        height, width = pixels.shape[:2]
        step = self.side - 2 * MARGIN
        result: NDArray[np.uint8] | None = None
        factor = 0
        for top, left in _corners(height, width, step):
            part = _cut(pixels, top - MARGIN, left - MARGIN, self.side)
            tile = self.run((part / 255).astype(np.float32))
            if result is None:
                factor = tile.shape[0] // self.side
                result = np.empty((height * factor, width * factor, 3), np.uint8)
            rows, columns = min(step, height - top) * factor, min(step, width - left) * factor
            inner = tile[MARGIN * factor :, MARGIN * factor :][:rows, :columns]
            there = result[top * factor :, left * factor :][:rows, :columns]
            there[:] = np.rint(inner.clip(0, 1) * 255).astype(np.uint8)
        assert result is not None
        return result


_PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
_TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16"}


def _corners(height: int, width: int, step: int) -> Iterator[tuple[int, int]]:
    return ((top, left) for top in range(0, height, step) for left in range(0, width, step))


def _cut(pixels: NDArray[np.uint8], top: int, left: int, side: int) -> NDArray[np.uint8]:
    """Return a square part of an image. Beyond its edges, the outermost pixels repeat."""
    import numpy as np

    rows = np.clip(np.arange(top, top + side), 0, pixels.shape[0] - 1)
    columns = np.clip(np.arange(left, left + side), 0, pixels.shape[1] - 1)
    return pixels[rows][:, columns]


def upscale(task: UpscaleTask) -> Upscaled:
    """Enlarge one image. Every fault becomes a reply."""
    import numpy as np
    from PIL import Image

    try:
        with Image.open(io.BytesIO(task.png), formats=("PNG",)) as image:
            pixels = np.asarray(image.convert("RGB"))
        enlarged = UpscaleModel(Path(task.model)).enlarge(pixels)
        file = io.BytesIO()
        Image.fromarray(enlarged).save(file, "PNG", compress_level=1)
    except Exception as error:  # noqa: BLE001 - ONNX Runtime raises many; the parent logs each
        return Upscaled(error=f"{type(error).__name__}: {error}"[:300])
    return Upscaled(file.getvalue())


def main() -> None:
    """Enlarge the image that standard input brings, and write the reply."""
    output: IO[bytes] = enter_child(_NICENESS)
    frame = read_frame(sys.stdin.buffer)
    if frame is not None:
        output.write(to_frame(upscale(msgspec.msgpack.decode(frame, type=UpscaleTask))))
        output.flush()
    # Threads of libraries need no end of their own.
    os._exit(0)


if __name__ == "__main__":
    main()
