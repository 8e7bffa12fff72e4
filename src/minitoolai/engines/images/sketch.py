"""The embedded image model: a small latent diffusion model of our own on ONNX Runtime and the 18 samplers.

Rows of different steps, scheduler, guidance and prompt share each model call. It draws pictures in the manner
of emoji and says so: the model's name in every answer is its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from minitoolai.core.errors import EngineError
from minitoolai.engines.images.codec import png_of
from minitoolai.engines.protocols import GeneratedImage, ImageRequest, OnProgress
from minitoolai.engines.sampling import model_calls, trajectory

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    pass  # merged
    from minitoolai.engines.sampling import Trajectory

# (merged from sketch_words) What the sketch model sees of a caption: the names nearest to it of things it can draw, as one vector.
# (merged from sketch_words)
# (merged from sketch_words) Each word has a static vector, distilled once from all-MiniLM-L6-v2 (Apache-2.0), kept as int8; a caption is
# (merged from sketch_words) the mean of its words. The model knows the names of its own things well and other words badly, so a caption
# (merged from sketch_words) is first said in those names: one softmax over them instead of a text transformer.

Floats = NDArray[np.float32]

LONGEST_TOKENS = 32
# Words that say nothing about a picture; a mean over few tokens cannot afford them.
EMPTY_WORDS = ("a", "an", "the", "of", "with", "and", ",", ".", "'", "!", "?", "-", ":", ";")
STYLES = ("3d style", "flat style", "noto style", "twemoji style")
STYLE = re.compile(rf"\b({'|'.join(STYLES)})\b", re.IGNORECASE)
# Of two names whose cosine to the caption differs by 0.05, the nearer has 12 times the weight.
TEMPERATURE = 0.02


class Words:
    """The tokenizer, the table of vectors and the names: `words.npz` and `tokenizer.json` in one folder."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        kept = np.load(folder / "words.npz")
        self._vectors: NDArray[np.int8] = kept["vectors"]
        self._scales: Floats = kept["scales"].astype(np.float32)
        self._tokens = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokens.no_padding()
        self._tokens.no_truncation()
        self._empty = {self._tokens.token_to_id(word) for word in EMPTY_WORDS}
        self.nothing: Floats = kept["nothing"]
        self.names: list[str] = kept["names"].tolist()
        sums = [self._sum(name) for name in self.names]
        self._name_sums = np.stack([vector for vector, _ in sums])
        self._name_counts: Floats = np.array([count for _, count in sums], np.float32)
        self._directions = _unit(self._name_sums)

    def embed(self, text: str, seed: int | None = None) -> Floats:
        """One caption, (192,), as the network was trained to see it: names, style words as they are.

        With a seed, a caption that names no style gets one of the four.
        """
        styles = STYLE.findall(text)
        if not styles and seed is not None:
            # All four at once would be a blur; the seed decides what the prompt leaves open.
            styles = [STYLES[seed % len(STYLES)]]
        style, style_count = self._sum(" ".join(styles))
        share = self._shares(text)
        named, count = share @ self._name_sums, float(share @ self._name_counts)
        mean: Floats = (named + style) / (count + style_count)
        return mean

    def meant(self, text: str, most: int = 3) -> list[tuple[str, float]]:
        """The things that a caption is taken to mean, most likely first, with their shares."""
        share = self._shares(text)
        return [(self.names[i], float(share[i])) for i in np.argsort(-share)[:most]]

    def _shares(self, text: str) -> Floats:
        """How much each name counts in a caption, (number of names,), summing to 1."""
        vector, _ = self._sum(STYLE.sub(" ", text))
        likeness = self._directions @ _unit(vector)
        weight = np.exp((likeness - likeness.max()) / TEMPERATURE)
        share: Floats = (weight / weight.sum()).astype(np.float32)
        return share

    def _sum(self, text: str) -> tuple[Floats, int]:
        """The sum of a text's telling words (192,) and how many they are; without any, of whatever it has."""
        ids = self._tokens.encode(text, add_special_tokens=False).ids
        telling = [token for token in ids if token not in self._empty]
        chosen = (telling or ids)[:LONGEST_TOKENS]
        if not chosen:
            return np.zeros(self._vectors.shape[1], np.float32), 0
        vectors = self._vectors[chosen] * self._scales[chosen, None]
        return vectors.sum(0, dtype=np.float32), len(chosen)


def _unit(vectors: Floats) -> Floats:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: Floats = (vectors / np.maximum(length, 1e-6)).astype(np.float32)
    return unit


MODEL = "minitoolai-sketch-1"
FOLDER = Path(__file__).parent / "sketch_model"
FILES = ("denoiser.onnx", "decoder.onnx", "words.npz", "tokenizer.json")
LATENT = (4, 16, 16)

# More rows in one call do not come out faster on a processor; they only take more memory.
ROWS_PER_CALL = 32
PICTURES_PER_DECODE = 4


class SketchEngine:
    """Loads in well under a second; needs no GPU, no network and about 200 MB."""

    name = "sketch"

    def __init__(self, threads: int = 0) -> None:
        """`threads`: how many the model may use, 0 for one per core."""
        self._threads = threads
        self._parts: _Parts | None = None

    def why_not_ready(self, model: str = "") -> str | None:
        missing = [file for file in FILES if not (FOLDER / file).exists()]
        return f"{', '.join(missing)} missing from the installation: install minitoolai again" if missing else None

    def batch_key(self, model: str, width: int, height: int) -> str:
        """Everything is drawn at one size, by one model, and scaled."""
        return MODEL

    def start(self) -> None:
        """Load. EngineError where a file of the model is missing."""
        if self._parts is not None:
            return
        if fault := self.why_not_ready():
            raise EngineError(fault)
        self._parts = _Parts(self._threads)

    def stop(self) -> None:
        self._parts = None

    def open(self, model: str = "") -> SketchBatch:
        """An empty canvas; starts the engine where that has not been done."""
        self.start()
        assert self._parts is not None
        return SketchBatch(self._parts)


class _Parts:
    """The two networks and the words, loaded."""

    def __init__(self, threads: int) -> None:
        import onnxruntime

        pass  # merged

        options: Any = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Waiting in a loop for the next call would take the processor from whatever runs beside.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")

        def load(file: str) -> Any:
            return onnxruntime.InferenceSession(FOLDER / file, options, providers=["CPUExecutionProvider"])

        self.words: Words = Words(FOLDER)
        self._denoiser, self._decoder = load("denoiser.onnx"), load("decoder.onnx")

    def denoise(self, rows: Sequence[_Row]) -> NDArray[np.float32]:
        """x0 (N, 4, 16, 16) for N rows, each with its own sigma and caption."""
        import numpy as np

        answers = []
        for i in range(0, len(rows), ROWS_PER_CALL):
            x, sigma, caption = zip(*rows[i : i + ROWS_PER_CALL], strict=True)
            fed = {"x": np.stack(x), "sigma": np.array(sigma), "caption": np.stack(caption)}
            answers.append(self._denoiser.run(None, {name: v.astype(np.float32) for name, v in fed.items()})[0])
        return np.concatenate(answers)

    def decode(self, latents: Sequence[NDArray[Any]]) -> list[NDArray[np.uint8]]:
        """Square pixels (S, S, 3) of each picture's latents."""
        import numpy as np

        pictures: list[NDArray[np.uint8]] = []
        for i in range(0, len(latents), PICTURES_PER_DECODE):
            some = np.stack(latents[i : i + PICTURES_PER_DECODE]).astype(np.float32)
            drawn = self._decoder.run(None, {"latents": some})[0]
            bright = np.clip((drawn.transpose(0, 2, 3, 1) + 1) * 127.5, 0, 255)
            pictures.extend(np.rint(bright).astype(np.uint8))
        return pictures


_Row = tuple["NDArray[Any]", float, "NDArray[np.float32]"]


class _SketchImage:
    """One picture under way: where its sampler stands and what it is guided by."""

    def __init__(self, parts: _Parts, request: ImageRequest, on_progress: OnProgress | None) -> None:
        from minitoolai.engines.sampling.noise import PictureNoise

        self.request = request
        self._on_progress = on_progress
        self._calls, self._calls_total = 0, model_calls(request.scheduler, request.steps)
        self._wanted = parts.words.embed(request.prompt, request.seed)
        negative = request.negative_prompt.strip()
        self._unwanted = parts.words.embed(negative) if negative else parts.words.nothing
        noise = PictureNoise(request.seed % 2**64, LATENT)
        self._path: Trajectory = trajectory(request.scheduler, request.steps, noise.start(), noise)
        self._x, self._sigma = next(self._path)

    def rows(self) -> list[_Row]:
        """What the model is asked: with guidance 1 the unwanted has no weight and is not asked for."""
        wanted = (self._x, self._sigma, self._wanted)
        if self.request.cfg_scale == 1:
            return [wanted]
        return [wanted, (self._x, self._sigma, self._unwanted)]

    def advance(self, answers: NDArray[Any]) -> NDArray[Any] | None:
        """Take the model's answers to `rows`; the finished latents, if these were the last."""
        denoised = answers[0].astype("float64")
        if len(answers) > 1:
            denoised = answers[1] + self.request.cfg_scale * (denoised - answers[1])
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
    """Pictures under way. What one looks like never depends on what is drawn beside it."""

    def __init__(self, parts: _Parts) -> None:
        self._parts = parts
        self._pictures: dict[int, _SketchImage] = {}
        self._next_ticket = 0

    def __len__(self) -> int:
        return len(self._pictures)

    def add(self, request: ImageRequest, on_progress: OnProgress | None = None) -> int:
        """Begin a picture. ValueError for a scheduler that is not one of the eighteen, or no steps."""
        picture = _SketchImage(self._parts, request, on_progress)
        self._next_ticket += 1
        self._pictures[self._next_ticket] = picture
        return self._next_ticket

    def remove(self, ticket: int) -> None:
        self._pictures.pop(ticket, None)

    def step(self) -> list[GeneratedImage]:
        """One model call for all (in chunks, where there are many), then decode those that it finished."""
        latents = self.advance()
        pixels = self._parts.decode([x for x, _ in latents.values()])
        return [
            GeneratedImage(ticket=ticket, png=png_of(drawn, request, MODEL), model=MODEL)
            for (ticket, (_, request)), drawn in zip(latents.items(), pixels, strict=True)
        ]

    def advance(self) -> dict[int, tuple[NDArray[Any], ImageRequest]]:
        """The model call of `step` alone: the finished pictures as latents (4, 16, 16), by ticket."""
        if not self._pictures:
            return {}
        asked = {ticket: picture.rows() for ticket, picture in self._pictures.items()}
        answers = self._parts.denoise([row for rows in asked.values() for row in rows])
        latents, first = {}, 0
        for ticket, rows in asked.items():
            finished = self._pictures[ticket].advance(answers[first : first + len(rows)])
            first += len(rows)
            if finished is not None:
                latents[ticket] = finished, self._pictures.pop(ticket).request
        return latents


def draw(engine: SketchEngine, request: ImageRequest, on_progress: OnProgress | None = None) -> GeneratedImage:
    """One picture from start to end."""
    canvas = engine.open()
    canvas.add(request, on_progress)
    while not (finished := canvas.step()):
        pass
    return finished[0]


def make_canvas_engine(config: dict[str, Any]) -> SketchEngine:
    """`threads`: how many the model may use, 0 for one per core."""
    return SketchEngine(config.get("threads", 0))
