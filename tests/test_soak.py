"""Everything at once on a real server for a minute: `tools/soak` has the laws, and runs longer by hand."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.processes import HERE, environment


@pytest.mark.slow
@pytest.mark.parametrize("devices", [0, 2])
def test_nothing_is_lost_and_nothing_left_behind_whatever_is_asked_at_once(devices: int) -> None:
    options = ["--seed", str(devices), "--rounds", "2", "--seconds", "15", "--devices", str(devices), "--end-busy"]
    ran = subprocess.run(
        [sys.executable, "-m", "tools.soak", *options],
        cwd=HERE,
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stdout[-6000:]
