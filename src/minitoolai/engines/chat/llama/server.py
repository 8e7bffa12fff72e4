"""The child process of the embedded chat model: a llama.cpp server on loopback, so that a crash in C++ stays in here.

Run as `python -m minitoolai.engines.chat.llama.server` with its settings as one line of JSON on standard input. Prints
its address, then runs until standard input ends or its parent dies.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from minitoolai.core.parent import die_with_parent


def main() -> None:
    """Load the model, print the address, and wait for the end of standard input."""
    die_with_parent()
    settings = json.loads(sys.stdin.readline())
    import xllamacpp

    try:
        server = xllamacpp.Server(server_parameters(xllamacpp, settings))
    except RuntimeError:
        # llama.cpp has logged the reason.
        sys.exit(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.stdout.write(server.listening_address + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    # There is nothing to save, so do not wait for llama.cpp's threads.
    os._exit(0)


def server_parameters(xllamacpp: Any, settings: dict[str, Any]) -> Any:
    """Translate the settings into llama.cpp's parameters."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = settings["path"]
    parameters.model_alias = {settings["model"]}
    parameters.hostnames = [settings.get("host", "127.0.0.1")]
    parameters.port = 0
    parameters.api_keys = [settings["key"]]
    parameters.n_parallel = settings["slots"]
    parameters.n_ctx = settings["context"] * settings["slots"]
    # Each open connection occupies a thread of llama.cpp's server, including those of queued requests.
    parameters.n_threads_http = settings["slots"] + settings["queue"] + 8
    parameters.cache_ram_mib = 0
    # Read the file instead of mapping it: llama.cpp repacks most weights into a copy, and the mapped ones stay as well.
    parameters.load_mode = xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_NONE
    parameters.ui = False
    # Log errors only, and only while loading: later ones might contain a prompt.
    parameters.verbosity = 1
    if settings["threads"]:
        parameters.cpuparams.n_threads = settings["threads"]
        parameters.cpuparams_batch.n_threads = settings["threads"]
    if settings["embeds"]:
        parameters.embedding = True
        # An embedding input is processed in one batch.
        parameters.n_batch = parameters.n_ubatch = settings["context"]
        if settings["pooling"]:
            kinds = xllamacpp.llama_pooling_type
            parameters.pooling_type = getattr(kinds, f"LLAMA_POOLING_TYPE_{settings['pooling'].upper()}")
    if settings.get("mmproj"):
        parameters.mmproj.path = settings["mmproj"]
    return parameters


if __name__ == "__main__":
    main()
