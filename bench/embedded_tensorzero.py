"""Serve TensorZero's embedded gateway over HTTP. Runs in the environment of the peer, not in ours.

Uses the function by which `tensorzero.patch_openai_client` starts the gateway for an OpenAI client in the same process.
"""

import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

from tensorzero.tensorzero import _start_http_gateway

if __name__ == "__main__":
    nowhere = dict.fromkeys(("clickhouse_url", "postgres_url", "valkey_url"))
    gateway = _start_http_gateway(config_file=sys.argv[1], async_setup=False, **nowhere)
    port = Path(sys.argv[2])
    port.with_suffix(".new").write_text(str(urlsplit(gateway.base_url).port))
    port.with_suffix(".new").replace(port)
    threading.Event().wait()
