"""Laws of `llamahost chat`: turns add up, Ctrl-C stops a reply and no more, a server is as good as a file."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from llamahost.commands.chat import Talk, Turn
from llamahost.commands.remote import Remote
from llamahost.core.errors import GenerationFailed
from llamahost.core.events import Delta
from tests.on_loop import LIMIT_S
from tests.processes import HERE, command, ended, environment, finished, serving

SHORT = ("--temperature", "0", "--max-tokens", "6", "--n-ctx", "512")


def talked(folder: Path, text: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command("chat", *arguments),
        cwd=folder, env=environment(), input=text, text=True, capture_output=True, timeout=LIMIT_S,
    )  # fmt: skip


@pytest.mark.slow
def test_replies_alone_are_on_standard_output(tiny_llama: Path, tmp_path: Path) -> None:
    done = talked(tmp_path, "Hello\n\n/system Be kind.\n/nonsense\nAgain\n/bye\nnever read\n", tiny_llama, *SHORT)
    assert done.returncode == 0
    assert "told from the next reply on" in done.stderr
    assert "no command /nonsense" in done.stderr
    alone = finished(tmp_path, "run", tiny_llama, "Hello", *SHORT).stdout
    assert done.stdout.startswith(alone.removesuffix("\n"))
    assert len(done.stdout) > len(alone)


@pytest.mark.slow
def test_a_reset_forgets_the_conversation(tiny_llama: Path, tmp_path: Path) -> None:
    once = talked(tmp_path, "Hello\n", tiny_llama, *SHORT).stdout
    assert talked(tmp_path, "Hello\n/reset\nHello\n", tiny_llama, *SHORT).stdout == once * 2
    assert talked(tmp_path, "Hello\nHello\n", tiny_llama, *SHORT).stdout != once * 2


@pytest.mark.slow
def test_a_conversation_over_the_context_is_told_and_the_talk_goes_on(tiny_llama: Path, tmp_path: Path) -> None:
    flags = ("--temperature", "0", "--max-tokens", "6", "--n-ctx", "64")
    done = talked(tmp_path, "long " * 100 + "\nHello\n", tiny_llama, *flags)
    assert done.returncode == 1
    assert "llamahost: prompt has" in done.stderr
    assert done.stdout == talked(tmp_path, "Hello\n", tiny_llama, *flags).stdout


@contextmanager
def talking(folder: Path, *arguments: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command("chat", *arguments), cwd=folder, env=environment(), bufsize=0,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    with process:
        try:
            yield process
        finally:
            process.kill()


def stops_a_reply_and_answers_on(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin
    assert process.stdout
    assert process.stderr
    process.stdin.write(b"Hello\n")
    assert process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == b" [stopped]\n"
    process.stdin.write(b"/reset\n")
    assert process.stderr.readline() == b"forgotten\n"
    process.stdin.close()
    assert process.wait(LIMIT_S) == 0


def test_ctrl_c_stops_only_the_reply(tiny_llama: Path, tmp_path: Path) -> None:
    with talking(tmp_path, tiny_llama, "--n-ctx", "100000") as process:
        stops_a_reply_and_answers_on(process)


@pytest.mark.slow
def test_two_at_the_prompt_end_it(tiny_llama: Path, tmp_path: Path) -> None:
    with talking(tmp_path, tiny_llama, "--n-ctx", "64") as process:
        assert process.stdin
        assert process.stderr
        process.stdin.write(b"/help\n")
        assert process.stderr.readline().startswith(b"/reset")
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline() == b"\n"
        assert process.stderr.readline().startswith(b"Ctrl-D")
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT_S) == 130


@pytest.mark.slow
def test_a_person_gets_a_prompt_and_ctrl_d_ends(tiny_llama: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    arguments = command("chat", tiny_llama, *SHORT)
    with subprocess.Popen(
        arguments, cwd=tmp_path, env=environment(TERM="dumb"), stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        seen = b""

        def see(mark: bytes) -> None:
            nonlocal seen
            while mark not in seen:
                seen += os.read(ours, 4096)
            seen = seen.rpartition(mark)[2]

        try:
            see(b"Ctrl-D ends\r\n> ")
            os.write(ours, b"/help\n")
            see(b"Ctrl-C stops a reply\r\n> ")
            os.write(ours, b"\x04")
            assert process.wait(LIMIT_S) == 0
        finally:
            process.kill()
            os.close(ours)


@pytest.mark.slow
def test_a_running_server_is_as_good_as_a_file(tiny_llama: Path, tmp_path: Path) -> None:
    with serving(tmp_path, tiny_llama, "--n-ctx", "100000", "--slots", "1", "--api-key", "sesame") as server:
        server.line("ready: ")
        there = talked(tmp_path, "Hello\nAgain\n", "--url", server.url, "--api-key", "sesame", *SHORT[:4])
        assert (there.returncode, there.stderr) == (0, "")
        assert there.stdout == talked(tmp_path, "Hello\nAgain\n", tiny_llama, *SHORT).stdout
        with talking(tmp_path, "--url", server.url + "/v1/", "--api-key", "sesame") as process:
            stops_a_reply_and_answers_on(process)
        refused = talked(tmp_path, "Hello\n", "--url", server.url, "--api-key", "wrong")
        assert refused.returncode == 2
        assert "the server says 401" in refused.stderr


@pytest.mark.slow
def test_what_cannot_begin_says_so(tmp_path: Path) -> None:
    nobody = talked(tmp_path, "Hello\n", "--url", "http://127.0.0.1:1")
    assert nobody.returncode == 4
    assert nobody.stderr.startswith("llamahost: http://127.0.0.1:1 does not answer")
    assert talked(tmp_path, "").returncode == 0  # nothing said to the model of the package
    assert talked(tmp_path, "", "nowhere.gguf").returncode == 3
    embeds = talked(tmp_path, "", "builtin-embed")
    assert (embeds.returncode, "answers nothing in words" in embeds.stderr) == (2, True)


class _Page(BaseHTTPRequestHandler):
    """What answers at a port that was mistaken for the server's; and to a chat what stands in `events`."""

    events = ""

    def do_GET(self) -> None:
        self._answer(200 if self.path == "/v1/models" else 404, "<!doctype html><title>Hello</title>")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self._answer(200, self.events)

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None: ...


@contextmanager
def paging(events: str = "") -> Iterator[str]:
    """Its address."""
    page = type("Page", (_Page,), {"events": events})
    with HTTPServer(("127.0.0.1", 0), page) as there:
        serving = threading.Thread(target=there.serve_forever, args=(0.01,))
        serving.start()
        try:
            yield f"127.0.0.1:{there.server_address[1]}"
        finally:
            there.shutdown()
            serving.join()


def test_another_programs_port_and_a_wrong_scheme_are_told_in_a_line() -> None:
    with paging() as place:
        for arguments, status, told in (
            (("ps", "--url", f"http://{place}"), 2, "the server says 404: a web page; is it an API that is there?"),
            (("chat", "--url", f"http://{place}"), 1, "answers in another form: a web page; is it an API"),
            (("ps", "--url", f"https://{place}"), 4, "it speaks http:// there, as it seems"),
        ):
            done = ended(HERE, *arguments)
            assert (done.returncode, told in done.stderr) == (status, True), done.stderr


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("{not JSON", "streams in another form: {not JSON"),
        ("[]", "streams in another form"),
        ('{"choices": [{"delta": {"content": "no index"}}]}', "streams in another form"),
        ('{"error": {"message": "it broke"}}', "it broke"),
        ('{"error": null, "choices": null}', "broke off"),
    ],
)
def test_a_stream_of_another_form_is_told(data: str, told: str) -> None:
    raises = pytest.raises(GenerationFailed, match=re.escape(told))
    with paging(f"data: {data}\n\n") as place, Remote(place) as remote, raises:
        list(remote.chat([{"role": "user", "content": "Hello"}], {}))


def test_what_was_said_of_a_stopped_reply_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    lines = iter(["one", "two"])
    seen: list[list[Turn]] = []

    def replies(turns: list[Turn]) -> Generator[Delta, None, None]:
        seen.append(list(turns))
        yield Delta(0, "begun")
        if len(seen) == 1:
            raise KeyboardInterrupt

    assert Talk("be kind").hold(replies, lambda: next(lines, None), is_script=True) == 0
    assert [turn["content"] for turn in seen[1]] == ["be kind", "one", "begun", "two"]
    assert capsys.readouterr().out == "begun\nbegun\n"
