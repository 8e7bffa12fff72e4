"""Valid and invalid requests for everything in /openapi.json get no 5xx and no undocumented status, for a minute.

The requests are the same in every run, so that a failure belongs to the change that is being tested. `make long` tries
them for two minutes, and `make fuzz` new ones for ten.
"""

from __future__ import annotations

import os
from pathlib import Path

from minitoolai.settings import variables
from tests.acceptance.conftest import Serve
from tests.support.fuzzing import CATALOG, fuzz
from tests.support.length import length

SECONDS = int(os.environ.get("FUZZ_S", length(60, 120)))
SEED = os.environ.get("FUZZ_SEED", "1")


def test_every_response_to_generated_requests_is_documented(serve: Serve, tmp_path: Path) -> None:
    # The rate limit must not refuse any of the requests.
    unlimited = {name: "0" for name in variables() if name.endswith("_REQUESTS_PER_MINUTE")}
    server = serve(CATALOG, **unlimited)
    account = server.account("1000000.00")
    done = fuzz(account, tmp_path, seconds=SECONDS, seed=None if SEED == "new" else int(SEED))
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
    # Every kind of work was done and paid for.
    kinds = server.read(lambda c: c.execute("SELECT DISTINCT kind FROM generations WHERE state = 'succeeded'"))
    assert {"chat", "speech", "image"} <= {kind for (kind,) in kinds}, done.stdout[-4_000:]
    assert server.read(lambda c: c.execute("SELECT count(*) FROM generations"))[0][0] > SECONDS
