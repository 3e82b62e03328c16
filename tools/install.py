#!/usr/bin/env python3
"""Make the virtual environment and install llamahost into it, showing what goes on. Standard library only.

llama-cpp-python comes as source: llama.cpp is compiled for the machine at hand, a few minutes once; pip keeps the
result, so later environments take seconds. With CMAKE_ARGS (`-DGGML_CUDA=ON`, say) it is compiled anew. All output
is kept beside the environment in `install.log`.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

NINJA_STEP = re.compile(r"\[(\d+)/(\d+)\]")
PIP_NEWS = re.compile(
    r"^\s*(Collecting|Downloading|Building wheel for|Installing collected packages|Successfully)\b(.*)"
)


class Progress:
    """One line that is rewritten on a terminal, or a line at each tenth elsewhere."""

    def __init__(self) -> None:
        self.is_terminal = sys.stderr.isatty()
        self.started = time.monotonic()
        self.last_tenth = -1

    def say(self, text: str) -> None:
        end = "" if self.is_terminal else "\n"
        start = "\r\x1b[2K" if self.is_terminal else ""
        width = shutil.get_terminal_size().columns - 1
        print(f"{start}{text[:width]}", end=end, file=sys.stderr, flush=True)

    def compiled(self, done: int, total: int) -> None:
        tenth = done * 10 // total
        if not self.is_terminal and tenth == self.last_tenth:
            return
        self.last_tenth = tenth
        filled = done * 30 // total
        bar = "█" * filled + "·" * (30 - filled)
        elapsed = time.monotonic() - self.started
        self.say(f"compiling llama.cpp for this machine  {bar}  {done}/{total}  {elapsed:.0f} s")


def require_tools() -> None:
    """Stop early, with what to do, where the machine lacks something that pip cannot bring."""
    if sys.version_info < (3, 11):  # noqa: UP036 — this script runs before anything has checked the version
        version = sys.version.split()[0]
        sys.exit(f"llamahost needs Python 3.11 or newer; {sys.executable} is {version}. Try: make PYTHON=python3.12")
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        sys.exit(
            "llama.cpp has to be compiled, and no C++ compiler was found.\n"
            "On Debian or Ubuntu: apt install build-essential"
        )


def make_environment(folder: Path) -> Path:
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"making {folder}", file=sys.stderr)
        try:
            venv.create(folder, with_pip=True)
        except subprocess.CalledProcessError:
            sys.exit("Python's venv cannot bring pip here. On Debian or Ubuntu: apt install python3-venv")
    return python


def install(python: Path, target: str, log: Path) -> int:
    command = [str(python), "-m", "pip", "install", "--verbose", "--disable-pip-version-check", "--editable", target]
    if os.environ.get("CMAKE_ARGS"):
        command.insert(4, "--no-cache-dir")  # what pip kept was built with other arguments, or none
    progress = Progress()
    with log.open("w", encoding="utf-8") as kept:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        assert process.stdout is not None
        for line in process.stdout:
            kept.write(line)
            if step := NINJA_STEP.search(line):
                progress.compiled(int(step[1]), int(step[2]))
            elif news := PIP_NEWS.match(line):
                progress.say(f"{news[1]}{news[2].rstrip()}")
        code = process.wait()
    if progress.is_terminal:
        print(file=sys.stderr)
    return code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", type=Path, default=Path(".venv"), help="where the environment is made")
    parser.add_argument("--extras", default="", help="extras of the package, such as dev")
    options = parser.parse_args()
    require_tools()
    python = make_environment(options.venv)
    log = options.venv / "install.log"
    code = install(python, f".[{options.extras}]" if options.extras else ".", log)
    if code != 0:
        tail = log.read_text(encoding="utf-8").splitlines()[-30:]
        print("\n".join(tail), f"\n\nThe installation failed; the whole output is in {log}.", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
