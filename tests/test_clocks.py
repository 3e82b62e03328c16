"""Laws of clocks: what is waited for, measured and forgotten goes by one that nobody sets; the wall's is only shown."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.on_loop import LIMIT_S
from tests.processes import Server, serving
from tests.sources import PACKAGE

SHOWN = {
    "api/app.py": "when the models were there, as OpenAI has it",
    "api/openai_encode.py": "`created` of an answer",
    "bench/session.py": "the day of a measurement",
    "commands/ps.py": "how long ago a model was used, by the server's clock",
    "commands/top.py": "the same, and the time of day",
    "fleet/crew/kept_files.py": "the age of files, which outlive the process",
    "fleet/crew/place.py": "when a model was used, told as a time of day",
    "ops/log.py": "a line's time",
    "ops/tally.py": "when a request was over",
    "text/template.py": "the date that a chat template asks for",
}
WALL = (
    *(f"time.{name}" for name in ("time", "localtime", "gmtime", "ctime", "asctime", "strftime")),
    *("CLOCK_REALTIME", "datetime.now", "datetime.utcnow", "datetime.today", "date.today", "import time as"),
)
BARE = re.compile(r"^from time import .*\b(time|time_ns|localtime|gmtime|ctime|strftime)\b", re.MULTILINE)

SET_CLOCK = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static volatile long long none, *ahead_s;
static long long ahead(void) {
    if (!ahead_s) {
        int file = open(getenv("AHEAD_FILE"), O_RDONLY);
        void *found = file < 0 ? MAP_FAILED : mmap(0, sizeof none, PROT_READ, MAP_SHARED, file, 0);
        ahead_s = found == MAP_FAILED ? &none : found;
    }
    return *ahead_s;
}
int clock_gettime(clockid_t id, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, id, now);
    if (!failed && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) now->tv_sec += ahead();
    return failed;
}
int gettimeofday(struct timeval *now, void *zone) {
    int failed = syscall(SYS_gettimeofday, now, zone);
    if (!failed) now->tv_sec += ahead();
    return failed;
}
time_t time(time_t *kept) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (kept) *kept = now.tv_sec;
    return now.tv_sec;
}
"""
YEAR_S = 365 * 86400


def test_the_wall_clock_is_asked_for_what_is_shown_and_for_nothing_else() -> None:
    sources = {path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
    assert not [name for name, source in sources.items() if "from time import" in source and BARE.search(source)]
    asking = {name for name, source in sources.items() if any(mark in source for mark in WALL)}
    assert asking == set(SHOWN)


class Wall:
    """The wall clock of one process and those that it starts; nothing else of it is other than it was."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.skip("there is no C compiler to make a clock with that can be set")
        source, library, self._file = folder / "clock.c", folder / "clock.so", folder / "ahead"
        source.write_text(SET_CLOCK)
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
        self.set(0)
        self.environment = {"LD_PRELOAD": str(library), "AHEAD_FILE": str(self._file)}

    def set(self, ahead_s: int) -> None:
        if not self._file.exists():
            self._file.write_bytes(bytes(8))
        with self._file.open("r+b") as file:
            os.pwrite(file.fileno(), struct.pack("q", ahead_s), 0)


def until(law: Callable[[], bool]) -> float:
    """Seconds until it holds."""
    began = time.monotonic()
    while not law():
        assert time.monotonic() - began < LIMIT_S
        time.sleep(0.02)
    return time.monotonic() - began


@pytest.mark.slow  # it waits for a model to idle, three times
def test_a_server_whose_wall_clock_is_set_serves_as_before(tmp_path: Path, tiny_llama: Path) -> None:
    (tmp_path / "model_manifest.toml").write_text(
        f"""
        [[models]]
        name = "tiny"
        path = "builtin"
        [[models]]
        name = "idle"
        path = "{tiny_llama}"
        load = "request"
        idle_s = 1.5
        [[models]]
        name = "broken"
        path = "model_manifest.toml"
        load = "request"
        """
    )
    wall = Wall(tmp_path)
    with (
        serving(tmp_path, **wall.environment) as server,
        httpx.Client(base_url=server.url, timeout=LIMIT_S) as client,
    ):
        server.line("ready: ")
        for before_s, after_s in ((0, 10 * YEAR_S), (10 * YEAR_S, -10 * YEAR_S), (-10 * YEAR_S, 0)):
            _lives_through(server, client, wall, before_s, after_s)
        assert server.end(signal.SIGTERM) == 0


def _lives_through(server: Server, client: httpx.Client, wall: Wall, before_s: int, after_s: int) -> None:
    wall.set(before_s)
    began = time.monotonic()

    def state_of(name: str) -> str:
        return str(client.get(f"/api/models/{name}").json()["state"])

    def body(name: str = "tiny", **rest: object) -> dict[str, object]:
        return {"model": name, "prompt": "Once", "max_tokens": 8, "ignore_eos": True, **rest}

    assert client.post("/v1/completions", json=body("broken")).status_code == 503
    # A stream with the jump in its middle.
    with client.stream("POST", "/v1/completions", json=body(max_tokens=600, stream=True)) as answer:
        lines = answer.iter_lines()
        created = [json.loads(next(line for line in lines if line.startswith("data:"))[5:])["created"]]
        wall.set(after_s)
        told = [line for line in lines if line.startswith("data:")]
        assert told[-1] == "data: [DONE]"
        assert json.loads(told[-2][5:])["choices"][0]["finish_reason"] == "length"
    created.append(client.post("/v1/completions", json=body()).json()["created"])
    assert abs(created[1] - created[0] - (after_s - before_s)) < LIMIT_S  # the clock that is shown was set, then
    # A deadline likewise: no sooner, and not never.
    wall.set(before_s)
    with ThreadPoolExecutor(1) as pool:
        sent_at = time.monotonic()
        late = pool.submit(client.post, "/v1/completions", json=body(max_tokens=2000, n=4, timeout=0.3))
        time.sleep(0.05)
        wall.set(after_s)
        assert late.result().status_code == 504
        assert time.monotonic() - sent_at > 0.3
    # What failed is tried again after a while that is told.
    again = client.post("/v1/completions", json=body("broken"))
    assert again.status_code == 503
    assert 0 <= int(again.headers["retry-after"]) <= 600
    # What idles leaves when it has idled.
    wall.set(before_s)
    assert client.post("/v1/completions", json=body("idle")).status_code == 200
    asked_at = time.monotonic()
    wall.set(after_s)
    until(lambda: state_of("idle") == "unloaded")
    assert time.monotonic() - asked_at > 1.3
    # What is told of it was measured.
    elapsed = time.monotonic() - began
    requests = client.get("/api/requests?limit=1000").json()["requests"]
    assert len(requests) >= 5
    for each in requests:
        assert all(0 <= value <= elapsed + LIMIT_S for key, value in each.items() if key.endswith("_s") and value)
    assert client.get("/api/stats").json()["requestsPerMinute"] <= len(requests)
    sums = re.findall(r"^\w+_seconds_sum(?:\{.*\})? (\S+)$", client.get("/metrics").text, re.MULTILINE)
    assert sums
    assert all(0 <= float(each) < 60 * LIMIT_S for each in sums)
    assert client.get("/health").status_code == 200
