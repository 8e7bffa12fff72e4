"""Build the source distribution and, from it alone, the wheel: python -m tools.wheel [FOLDER]

The sources are copied first. Setuptools would otherwise take in what an earlier build left in `build` and in
`*.egg-info`, such as modules that have been deleted since.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
#: What the source distribution is made of, beside the package. See MANIFEST.in.
FILES = (
    "pyproject.toml",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
    "NOTICE",
    "CHANGELOG.md",
    "SECURITY.md",
    "requirements.txt",
)
PACKAGE = "src/minitoolai"
IGNORED = shutil.ignore_patterns("__pycache__", "*.py[cod]")
HOOK = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"


def build(folder: Path) -> tuple[Path, Path]:
    """Write both files to a folder and return their paths, the wheel first. Raise CalledProcessError if it fails."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="minitoolai-build-") as name:
        scratch = Path(name)
        tree, made, unpacked = scratch / "tree", scratch / "made", scratch / "unpacked"
        shutil.copytree(ROOT / PACKAGE, tree / PACKAGE, ignore=IGNORED)
        for file in FILES:
            shutil.copy2(ROOT / file, tree)
        sdist = _run("build_sdist", tree, made, "*.tar.gz")
        with tarfile.open(sdist) as archive:
            # Python before 3.11.4 has no filters, which this archive, made above, does not need.
            archive.extractall(unpacked, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
        wheel = _run("build_wheel", next(unpacked.iterdir()), made, "*.whl")
        return Path(shutil.copy(wheel, folder)), Path(shutil.copy(sdist, folder))


def _run(hook: str, tree: Path, made: Path, pattern: str) -> Path:
    """Call a hook of the build backend (PEP 517) in the tree and return the file that it made."""
    made.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", HOOK, hook, str(made)],
        cwd=tree, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.stderr.write(done.stdout)
        raise subprocess.CalledProcessError(done.returncode, hook)
    return next(made.glob(pattern))


if __name__ == "__main__":
    for path in build(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "dist")):
        sys.stdout.write(f"{path}\n")
