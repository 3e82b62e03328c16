"""Laws of the bar: a person at a terminal sees it and it goes away; a pipe never holds a byte of it."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path

import pytest

from tests.on_loop import LIMIT_S
from tests.test_cli import command, environment, finished


def at_a_terminal(folder: Path, *arguments: str | Path) -> tuple[int, str, str]:
    """The status, standard output, which is a pipe, and what a person sees of standard error."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command(*arguments), cwd=folder, env=environment(TERM="xterm"), stdout=subprocess.PIPE, stderr=theirs
    ) as process:
        os.close(theirs)
        seen = b""
        try:
            while piece := os.read(ours, 4096):
                seen += piece
        except OSError:  # a terminal that nobody holds open any more
            pass
        finally:
            os.close(ours)
        output, _ = process.communicate(timeout=LIMIT_S)
        return process.returncode, output.decode(), seen.decode()


@pytest.mark.slow
def test_a_person_sees_a_bar_while_a_model_loads(tiny_llama: Path, tmp_path: Path) -> None:
    arguments = ("run", tiny_llama, "Hello", "--temperature", "0", "-n", "4", "--n-ctx", "256")
    status, output, seen = at_a_terminal(tmp_path, *arguments)
    assert status == 0
    assert "loading tiny-llama" in seen
    assert "%" in seen
    piped = finished(tmp_path, *arguments)
    assert (output, "") == (piped.stdout, piped.stderr)


@pytest.mark.slow
def test_serve_shows_one_too_and_logs_above_it(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF nonsense")
    status, output, seen = at_a_terminal(tmp_path, "serve", "bad.gguf", "--port", "0")
    assert "loading bad from bad.gguf" in output
    assert "loading bad" in seen
    assert "llamahost: bad.gguf" in seen
    assert "Traceback" not in seen
    assert status == 3
