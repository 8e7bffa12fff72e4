"""The embedded image model: a small latent diffusion model on ONNX Runtime, sampled with the 18 samplers.

Images of different steps, scheduler, guidance and prompt share each model call. It generates images in the style of
emoji, and every image names this model rather than the requested one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minitoolai.core.errors import EngineError
from minitoolai.engines.images.codec import encode_square
from minitoolai.engines.protocols import GeneratedImage, ImageRequest, OnProgress
from minitoolai.engines.sampling import model_calls, trajectory

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from minitoolai.engines.sampling import Trajectory

    Floats = NDArray[np.float32]

MODEL = "minitoolai-sketch-1"
FOLDER = Path(__file__).parent / "sketch_model"
FILES = ("denoiser.onnx", "decoder.onnx", "words.npz", "tokenizer.json")
LATENT = (4, 16, 16)

# Larger calls are not faster on a CPU and take more memory.
ROWS_PER_CALL = 32
IMAGES_PER_DECODE = 4


class SketchEngine:
    """Loads in well under a second. Needs no GPU, no network and about 200 MB of memory."""

    name = "sketch"

    def __init__(self, threads: int = 0) -> None:
        """Create an engine that uses this many threads, 0 for one per core."""
        self._threads = threads
        self._model: SketchModel | None = None

    def why_not_ready(self, model: str = "") -> str | None:
        missing = [file for file in FILES if not (FOLDER / file).exists()]
        return f"{', '.join(missing)} missing from the installation: install minitoolai again" if missing else None

    def batch_key(self, model: str, width: int, height: int) -> str:
        """Return one batch for all images: they are generated at one size and scaled afterwards."""
        return MODEL

    def start(self) -> None:
        """Load the model. Raises EngineError if a file is missing."""
        if self._model is not None:
            return
        if fault := self.why_not_ready():
            raise EngineError(fault)
        self._model = SketchModel(self._threads)

    def stop(self) -> None:
        self._model = None

    def open(self, model: str = "") -> SketchBatch:
        """Return an empty batch, starting the engine if needed."""
        self.start()
        assert self._model is not None
        return SketchBatch(self._model)


class SketchModel:
    """The loaded networks and caption encoder."""

    def __init__(self, threads: int) -> None:
        import onnxruntime

        options: Any = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Threads that spin while waiting for the next call would take the CPU from other processes.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")

        def load(file: str) -> Any:
            return onnxruntime.InferenceSession(FOLDER / file, options, providers=["CPUExecutionProvider"])

        self.captions: CaptionEncoder = CaptionEncoder(FOLDER)
        self._denoiser, self._decoder = load("denoiser.onnx"), load("decoder.onnx")

    def denoise(self, rows: Sequence[_Row]) -> NDArray[np.float32]:
        """Return x0 (N, 4, 16, 16) for N rows, each with its own sigma and caption."""
        import numpy as np

        outputs = []
        for i in range(0, len(rows), ROWS_PER_CALL):
            x, sigma, caption = zip(*rows[i : i + ROWS_PER_CALL], strict=True)
            inputs = {"x": np.stack(x), "sigma": np.array(sigma), "caption": np.stack(caption)}
            outputs.append(self._denoiser.run(None, {name: v.astype(np.float32) for name, v in inputs.items()})[0])
        return np.concatenate(outputs)

    def decode(self, latents: Sequence[NDArray[Any]]) -> list[NDArray[np.uint8]]:
        """Return the square pixels (S, S, 3) of each image's latents."""
        import numpy as np

        images: list[NDArray[np.uint8]] = []
        for i in range(0, len(latents), IMAGES_PER_DECODE):
            chunk = np.stack(latents[i : i + IMAGES_PER_DECODE]).astype(np.float32)
            decoded = self._decoder.run(None, {"latents": chunk})[0]
            bright = np.clip((decoded.transpose(0, 2, 3, 1) + 1) * 127.5, 0, 255)
            images.extend(np.rint(bright).astype(np.uint8))
        return images


_Row = tuple["NDArray[Any]", float, "NDArray[np.float32]"]


class _SketchImage:
    """One image in flight: the state of its sampler and the captions that guide it."""

    def __init__(self, model: SketchModel, request: ImageRequest, on_progress: OnProgress | None) -> None:
        from minitoolai.engines.sampling.noise import SeededNoise

        self.request = request
        self._on_progress = on_progress
        self._calls, self._calls_total = 0, model_calls(request.scheduler, request.steps)
        self._positive = model.captions.embed(request.prompt, request.seed)
        negative = request.negative_prompt.strip()
        self._negative = model.captions.embed(negative) if negative else model.captions.empty
        noise = SeededNoise(request.seed % 2**64, LATENT)
        self._path: Trajectory = trajectory(request.scheduler, request.steps, noise.start(), noise)
        self._x, self._sigma = next(self._path)

    def rows(self) -> list[_Row]:
        """Return the rows for the next model call. With guidance 1 the negative prompt has no weight: omit its row."""
        positive = (self._x, self._sigma, self._positive)
        if self.request.cfg_scale == 1:
            return [positive]
        return [positive, (self._x, self._sigma, self._negative)]

    def advance(self, outputs: NDArray[Any]) -> NDArray[Any] | None:
        """Advance by the model's outputs for `rows`. Return the latents if the image is finished."""
        denoised = outputs[0].astype("float64")
        if len(outputs) > 1:
            denoised = outputs[1] + self.request.cfg_scale * (denoised - outputs[1])
        self._calls += 1
        if self._on_progress is not None:
            self._on_progress(self._calls * self.request.steps // self._calls_total, self.request.steps)
        try:
            self._x, self._sigma = self._path.send(denoised)
        except StopIteration as end:
            finished: NDArray[Any] = end.value
            return finished
        return None


class SketchBatch:
    """Images in flight. The result of one never depends on the others."""

    def __init__(self, model: SketchModel) -> None:
        self._model = model
        self._images: dict[int, _SketchImage] = {}
        self._last_slot = 0

    def __len__(self) -> int:
        return len(self._images)

    def add(self, request: ImageRequest, on_progress: OnProgress | None = None) -> int:
        """Add an image. Raises ValueError for an unknown scheduler or zero steps."""
        image = _SketchImage(self._model, request, on_progress)
        self._last_slot += 1
        self._images[self._last_slot] = image
        return self._last_slot

    def remove(self, slot_id: int) -> None:
        self._images.pop(slot_id, None)

    def step(self) -> list[GeneratedImage]:
        """Run one model call for all images (in chunks, if there are many), then decode those that it finished."""
        latents = self.advance()
        pixels = self._model.decode([x for x, _ in latents.values()])
        return [
            GeneratedImage(slot_id=slot_id, png=encode_square(square, request, MODEL), model=MODEL)
            for (slot_id, (_, request)), square in zip(latents.items(), pixels, strict=True)
        ]

    def advance(self) -> dict[int, tuple[NDArray[Any], ImageRequest]]:
        """Run the model call of `step` only, and return the latents (4, 16, 16) of finished images by slot ID."""
        if not self._images:
            return {}
        rows_of = {slot_id: image.rows() for slot_id, image in self._images.items()}
        outputs = self._model.denoise([row for rows in rows_of.values() for row in rows])
        latents, first = {}, 0
        for slot_id, rows in rows_of.items():
            finished = self._images[slot_id].advance(outputs[first : first + len(rows)])
            first += len(rows)
            if finished is not None:
                latents[slot_id] = finished, self._images.pop(slot_id).request
        return latents


def generate(engine: SketchEngine, request: ImageRequest, on_progress: OnProgress | None = None) -> GeneratedImage:
    """Generate one image from start to end."""
    batch = engine.open()
    batch.add(request, on_progress)
    while not (finished := batch.step()):
        pass
    return finished[0]


def make_batch_engine(config: dict[str, Any]) -> SketchEngine:
    """Return an engine that uses `threads` threads, 0 for one per core."""
    return SketchEngine(config.get("threads", 0))


# ── from a caption to the model's input ───────────────────────────────────────────────────────────────────────

MAX_TOKENS = 32
# Words without visual meaning; they would dominate the mean of a few tokens.
STOP_WORDS = ("a", "an", "the", "of", "with", "and", ",", ".", "'", "!", "?", "-", ":", ";")
STYLES = ("3d style", "flat style", "noto style", "twemoji style")
STYLE = re.compile(rf"\b({'|'.join(STYLES)})\b", re.IGNORECASE)
# A difference of 0.05 in the cosine to the caption means 12 times the weight.
TEMPERATURE = 0.02


class CaptionEncoder:
    """Encodes captions as one vector, with `words.npz` and `tokenizer.json` from one folder.

    Each word has a static vector, distilled from all-MiniLM-L6-v2 (Apache-2.0) and stored as int8; a caption is the
    mean of its words. The model knows the names of its own subjects well and other words badly, so a caption is first
    mapped to those names: one softmax over them instead of a text transformer.
    """

    def __init__(self, folder: Path) -> None:
        import numpy as np
        from tokenizers import Tokenizer

        stored = np.load(folder / "words.npz")
        self._vectors: NDArray[np.int8] = stored["vectors"]
        self._scales: Floats = stored["scales"].astype(np.float32)
        self._tokens = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokens.no_padding()
        self._tokens.no_truncation()
        self._stop_tokens = {self._tokens.token_to_id(word) for word in STOP_WORDS}
        self.empty: Floats = stored["nothing"]
        self.names: list[str] = stored["names"].tolist()
        sums = [self._sum(name) for name in self.names]
        self._name_sums = np.stack([vector for vector, _ in sums])
        self._name_counts: Floats = np.array([count for _, count in sums], np.float32)
        self._directions = _unit(self._name_sums)

    def embed(self, text: str, seed: int | None = None) -> Floats:
        """Return the vector of a caption, (192,), as the network was trained on it: names, and style words unchanged.

        With a seed, a caption that names no style gets one of the four.
        """
        styles = STYLE.findall(text)
        if not styles and seed is not None:
            # A mix of all four would be a blur, so the seed chooses one.
            styles = [STYLES[seed % len(STYLES)]]
        style, style_count = self._sum(" ".join(styles))
        share = self._shares(text)
        names, count = share @ self._name_sums, float(share @ self._name_counts)
        mean: Floats = (names + style) / (count + style_count)
        return mean

    def nearest_names(self, text: str, count: int = 3) -> list[tuple[str, float]]:
        """Return the names that a caption is mapped to, most likely first, with their shares."""
        import numpy as np

        share = self._shares(text)
        return [(self.names[i], float(share[i])) for i in np.argsort(-share)[:count]]

    def _shares(self, text: str) -> Floats:
        """Return the weight of each name in a caption, (number of names,), summing to 1."""
        import numpy as np

        vector, _ = self._sum(STYLE.sub(" ", text))
        similarity = self._directions @ _unit(vector)
        weight = np.exp((similarity - similarity.max()) / TEMPERATURE)
        share: Floats = (weight / weight.sum()).astype(np.float32)
        return share

    def _sum(self, text: str) -> tuple[Floats, int]:
        """Return the sum (192,) and number of a text's vectors without stop words, or of all if none remain."""
        import numpy as np

        ids = self._tokens.encode(text, add_special_tokens=False).ids
        content = [token for token in ids if token not in self._stop_tokens]
        chosen = (content or ids)[:MAX_TOKENS]
        if not chosen:
            return np.zeros(self._vectors.shape[1], np.float32), 0
        vectors = self._vectors[chosen] * self._scales[chosen, None]
        return vectors.sum(0, dtype=np.float32), len(chosen)


def _unit(vectors: Floats) -> Floats:
    import numpy as np

    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: Floats = (vectors / np.maximum(length, 1e-6)).astype(np.float32)
    return unit
