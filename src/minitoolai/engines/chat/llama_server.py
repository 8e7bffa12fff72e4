"""The child process: a llama.cpp server on loopback. A crash in C++ takes down this process and no other.

Run as `python -m minitoolai.engines.chat.llama_server` with its settings as JSON on standard input; prints its address,
then lives until standard input ends or its parent dies.
"""

from __future__ import annotations

import json
import os
import sys

from minitoolai.engines.child_process import die_with_parent


def main() -> None:
    """Load the model, say where it listens, wait for the end."""
    die_with_parent()
    settings = json.loads(sys.stdin.readline())
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = settings["path"]
    parameters.model_alias = {settings["model"]}
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    parameters.api_keys = [settings["key"]]
    parameters.n_parallel = settings["slots"]
    parameters.n_ctx = settings["context"] * settings["slots"]
    # A kept connection occupies a thread of llama.cpp's server until it is closed: one for whoever may wait.
    parameters.n_threads_http = settings["slots"] + settings["queue"] + 8
    parameters.cache_ram_mib = 0
    parameters.ui = False
    # Errors only, and only while it loads: afterwards they might repeat a prompt.
    parameters.verbosity = 1
    if settings["threads"]:
        parameters.cpuparams.n_threads = settings["threads"]
        parameters.cpuparams_batch.n_threads = settings["threads"]
    if settings["embeds"]:
        parameters.embedding = True
        # A text is read in one piece.
        parameters.n_batch = parameters.n_ubatch = settings["context"]
        if settings["pooling"]:
            kinds = xllamacpp.llama_pooling_type
            parameters.pooling_type = getattr(kinds, f"LLAMA_POOLING_TYPE_{settings['pooling'].upper()}")
    if settings.get("mmproj"):
        parameters.mmproj.path = settings["mmproj"]
    try:
        server = xllamacpp.Server(parameters)
    except RuntimeError:
        # Its own log says why.
        sys.exit(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.stdout.write(server.listening_address + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    # Nothing to save: leave without waiting for llama.cpp's threads.
    os._exit(0)


if __name__ == "__main__":
    main()
