"""A frame of `top` fits its terminal, shows what is needed first, and holds nothing that a terminal would obey."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from llamahost.api.admin_told import gpus_told, model_told, model_told_whole
from llamahost.api.admin_types import StatsInfo
from llamahost.commands.frame import ago, frame, models_told
from llamahost.commands.load import tell
from llamahost.commands.top import painted
from llamahost.commands.words import counted
from llamahost.fleet.machine.footprint import Footprint
from llamahost.host import ModelStatus, ReplicaStatus
from llamahost.ops.gpu import Gpu, Gpus
from llamahost.ops.tally import Rates

STATS = StatsInfo(tokens_per_second=12.34, requests_per_minute=7, active_connections=2, models_loaded=1)
READY = ModelStatus(name="org/a-model-with-a-long-name-indeed", state="ready", n_slots=8)
LOADING = ModelStatus(name="big", state="loading", progress=0.456)
FAILED = ModelStatus(name="broken", state="failed", reason="corrupt")
H100 = Gpu(
    index=0, name="NVIDIA H100", total_bytes=80 * 2**30, used_bytes=40 * 2**30, utilisation=0.5, power_w=312.0,
    power_limit_w=700.0, throttled_by=("idle", "power cap"),
)  # fmt: skip
LOST = Gpu(index=1, is_lost=True, trouble="GPU is lost")


def test_of_one_thing_there_is_one() -> None:
    assert (counted(1, "slot"), counted(0, "slot"), counted(2, "slot")) == ("1 slot", "0 slots", "2 slots")


def shown(*statuses: ModelStatus, width: int = 200, gpus: Gpus | None = None) -> list[Any]:
    models = [model_told(status, Rates(tokens_per_s=9.87, last_used=900.0)) for status in statuses]
    return frame(STATS, gpus_told(gpus or Gpus(gpus=(H100, LOST))), models, width=width, now=1000.0)


def test_what_is_only_partly_on_its_gpu_says_so() -> None:
    replica = ReplicaStatus(id="big#0", state="ready", note="2 of 4 layers are on CUDA0")
    lines = [line.text for line in shown(replace(READY, name="big", replicas=(replica,)))]
    assert lines[-1] == "big#0: 2 of 4 layers are on CUDA0"


def test_what_is_loaded_otherwise_tells_its_own_memory_while_the_former_leaves(
    capsys: pytest.CaptureFixture[str],
) -> None:
    new = ReplicaStatus(id="m#1", state="ready", devices=("cpu",), estimated=Footprint(weights_bytes=5 * 2**20))
    old = replace(new, id="m#0", state="draining", estimated=Footprint(weights_bytes=9 * 2**20))
    tell(model_told_whole(replace(READY, name="m", replicas=(old, new)), Rates()), is_json=False)
    assert capsys.readouterr().out == "m: ready, 5.0 MiB on cpu\n"


def test_a_frame_tells_gpus_models_and_why() -> None:
    lines = [line.text for line in shown(READY, LOADING, FAILED)]
    assert lines[0] == "12.3 tokens/s   7 requests/min   2 connections   1 of 3 models loaded"
    gpu = next(line for line in lines if line.startswith("0 "))
    assert "40.0 GiB / 80.0 GiB  #####.....  50%" in gpu
    assert gpu.endswith("312 / 700 W    -  power cap")
    assert next(line for line in shown(READY) if line.text.startswith("1 ")).style == "bad"
    broken = shown(READY, gpus=Gpus(gpus=(replace(H100, broken_by="Xid 79"),)))
    assert next(line.text for line in broken if line.style == "bad").endswith("out of use: Xid 79")
    assert any("loading 46%" in line for line in lines)
    assert next(line for line in lines if line.startswith("org/")).endswith("1 min")
    assert lines[-1] == "broken: corrupt"
    assert "no GPU: no NVIDIA driver" in [line.text for line in shown(gpus=Gpus(trouble="no NVIDIA driver"))]


@pytest.mark.parametrize("width", [1, 10, 20, 40, 60, 80, 120])
def test_no_line_is_wider_than_the_terminal_and_the_name_and_state_are_lost_last(width: int) -> None:
    lines = shown(READY, LOADING, FAILED, width=width)
    assert max(len(line.text) for line in lines) <= width
    titles = next(line.text for line in reversed(lines) if line.style == "head")
    assert width < 20 or "state" in titles
    assert ("req/min" in titles) == (width >= 120)
    drawn = painted(lines, width, 5, is_plain=True)
    assert drawn.count("\n") == 4


def test_what_a_terminal_would_obey_does_not_reach_it() -> None:
    hostile = replace(FAILED, name="a\x1b]0;b\x07", reason="c\x1b[2J\nd\u202e")
    text = "\n".join(line.text for line in shown(hostile, gpus=Gpus(trouble="\x9b31m")))
    assert all(each.isprintable() or each == "\n" for each in text)
    assert "broken" not in text


@pytest.mark.parametrize(
    ("seconds", "told"), [(0, "0 s"), (59, "59 s"), (60, "1 min"), (7200, "2 h"), (200_000, "2 d"), (-5, "0 s")]
)
def test_how_long_ago_is_told_in_the_largest_unit(seconds: float, told: str) -> None:
    assert ago(1000.0 - seconds, 1000.0) == told
    assert ago(None, 1000.0) == "-"


def test_colours_are_left_out_where_they_are_not_wanted() -> None:
    lines = models_told([model_told(FAILED, Rates())], width=80, now=0.0)
    assert "\x1b[31m" in painted(lines, 80, 24, is_plain=False)
    assert "\x1b[31m" not in painted(lines, 80, 24, is_plain=True)
