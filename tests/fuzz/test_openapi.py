"""schemathesis against a real server: what /openapi.json tells is what the routes do, whatever they are sent."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llamahost.api.operations import OPERATIONS
from tests.fuzz.rest import assert_at_rest
from tests.gguf_models import write_model
from tests.processes import environment, serving

LIMIT_S = 600.0  # the limits are told, so 128 whole answers are asked for too
N_EXAMPLES = 15

NOT_CHECKED = "positive_data_acceptance"
"""A schema tells types and ranges; that `best_of` is not below `n`, or that a prompt fits, it cannot tell."""


LEFT_OUT = ("/api/events", "/api/models/{name}/load", "/api/models/{name}/unload")
"""What never ends, and what takes the model away from the other routes, whose names it may have learnt."""

CONFIG = """\
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 502, 504]
"""
"""504 is what a request's own `timeout` asks for, when that is as short as a number can be; 502: there is no hub."""


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
def test_schemathesis_finds_no_failure_and_no_violation(seed: int, tmp_path: Path) -> None:
    model = write_model(
        tmp_path / "tiny.gguf", "llama", n_ctx=128, has_fim=True
    )  # so that /infill and `suffix` are served
    (tmp_path / "schemathesis.toml").write_text(CONFIG, encoding="utf-8")
    flags = ("--n-ctx", "128", "--slots", "4", "--threads", "1", "--log-level", "error")
    with serving(tmp_path, model, *flags, HF_HUB_OFFLINE="1") as server:
        server.line("ready: ")
        done = subprocess.run(
            [
                *(Path(sys.executable).with_name("schemathesis"), "run", f"{server.url}/openapi.json"),
                *("--checks", "all", "--exclude-checks", NOT_CHECKED, "--max-examples", str(N_EXAMPLES)),
                *(flag for path in LEFT_OUT for flag in ("--exclude-path", path)),
                *("--max-response-time", "200", "--request-timeout", "200"),  # 128 answers by a machine that is busy
                *("--seed", str(seed), "--no-color", "--generation-database", "none"),
            ],
            cwd=tmp_path,
            env=environment(),
            text=True,
            capture_output=True,
            timeout=LIMIT_S,
        )
        assert done.returncode == 0, done.stdout
        assert f"{len(OPERATIONS) - len(LEFT_OUT)} selected / {len(OPERATIONS)} total" in done.stdout
        assert_at_rest(server, n_slots=4)
