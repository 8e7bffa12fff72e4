"""Where the operator's image models lie: one file or folder for each, in one folder. Nothing is ever downloaded."""

from __future__ import annotations

from pathlib import Path

ENDING = ".safetensors"


class Weights:
    """The folder of MINITOOLAI_WEIGHTS_DIR. Looked at each time, so that a file that was just put there counts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, name: str) -> Path | None:
        """The file or folder of this name, or None: `x.safetensors` may also be a folder `x` with model_index.json."""
        path = self._folder / name
        if path.is_file() and path.suffix == ENDING:
            return path
        folder = path.with_suffix("") if path.suffix == ENDING else path
        return folder if (folder / "model_index.json").is_file() else None

    def why_missing(self, name: str) -> str | None:
        """None where it is there; else what to put where."""
        if self.find(name) is not None:
            return None
        path = self._folder / name
        folder = path.with_suffix("") if path.suffix == ENDING else path
        file = path if path.suffix == ENDING else path.with_name(path.name + ENDING)
        if file.is_file() or folder.is_dir():
            return f"{folder} is no diffusers folder (model_index.json is missing): put it there whole, or {file}"
        return f"no file {file}: put it there, or a diffusers folder {folder.name}"
