"""Models that tests share: tiny ones made once a session, and trained ones where the machine has them.

Read by the process too that only counts, before any other begins: what it does not need is imported where it is needed.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import certifi
import pytest
from _pytest.runner import runtestprotocol
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from tests.gguf_models import Architecture

# A developer's run looks at few examples, and at the same ones each time, so that it fails for what was changed alone;
# --hypothesis-profile=long looks at many, and at others each time. How long they take to draw is the machine's affair.
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("fast", UNTIMED, max_examples=30, derandomize=True, database=None)
settings.register_profile("long", UNTIMED, max_examples=300)
settings.load_profile("fast")


HANG_S = 600.0
"""What takes longer hangs: its process is ended, with the stack of every thread. A test that waits says so sooner, by
tests/on_loop.LIMIT_S. Slow ones have an hour."""


class Watch:
    """Ends this process if one test goes on for so long. Armed seldom: each time takes a thread of its own."""

    def __init__(self, config: pytest.Config) -> None:
        self._limit_s = HANG_S if config.option.markexpr == "not slow" else 6 * HANG_S
        self._since = float("-inf")
        with config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            self._told = os.dup(2)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, nextitem: pytest.Item | None) -> Generator[None, object, object]:
        now = time.monotonic()
        if now - self._since > self._limit_s / 10:
            faulthandler.dump_traceback_later(self._limit_s, exit=True, file=self._told)
            self._since = now
        done = yield
        if nextitem is None:  # a worker may wait for others
            faulthandler.cancel_dump_traceback_later()
            self._since = float("-inf")
        return done

    def pytest_unconfigure(self) -> None:
        os.close(self._told)


class Terse:
    """Runs a test in one of xdist's processes: of one that passed a single report goes to the process that counts, not
    six messages, which cost both of them more than a small test does."""

    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool:
        for report in runtestprotocol(item, log=False, nextitem=nextitem):
            if report.when == "call" or not report.passed:
                if report.passed:
                    report.keywords = {}
                item.ihook.pytest_runtest_logreport(report=report)
        return True


class Surroundings:
    """What tests, and the processes that they start, find around them; no fixture, which pytest goes over in each test.

    Nothing is left in the user's cache, and an HTTP client reads one certificate: all the world's take longer than most
    of a test's requests. A signal that is ignored here is ignored in every process that is started, so none is.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="llamahost-tests-")
        self._environment = pytest.MonkeyPatch()

    def pytest_sessionstart(self) -> None:
        folder = Path(self._folder.name)
        first, end, _ = Path(certifi.where()).read_text(encoding="ascii").partition("-----END CERTIFICATE-----\n")
        (folder / "one.pem").write_text(first[first.index("-----BEGIN") :] + end)
        self._environment.setenv("SSL_CERT_FILE", str(folder / "one.pem"))
        (folder / "cache").mkdir()
        self._environment.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        for number in (signal.SIGHUP, signal.SIGINT):
            if signal.getsignal(number) is signal.SIG_IGN:  # nohup's, or a shell's for what it runs in the background
                signal.signal(number, lambda *_: None)

    def pytest_unconfigure(self) -> None:
        self._environment.undo()
        self._folder.cleanup()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """To import OpenAI's client takes a second. Who needs it stands first, so that one process has all of them."""
    items.sort(key=lambda item: item.get_closest_marker("openai") is None)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Watch(config))
    config.pluginmanager.register(Surroundings())
    if hasattr(config, "workerinput") and config.option.durations is None:
        config.pluginmanager.register(Terse())


gc.disable()  # until all is collected: what is imported stays


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """Nor is it looked through ever after, as a measurement does before each of its rounds; what tests make seldom."""
    gc.freeze()
    gc.set_threshold(20_000, 20)
    gc.enable()


def pytest_unconfigure() -> None:
    """The binding opens /dev/null twice when it is imported, and leaves both to the interpreter's end."""
    utils = sys.modules.get("llama_cpp._utils")
    for name in ("outnull_file", "errnull_file"):
        if hasattr(utils, name):
            getattr(utils, name).close()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def _model(folder: Path, architecture: Architecture) -> Path:
    """Written once, and known to open: tests that load it need not wait for the process that tries new files."""
    from llamahost.fleet.machine.inspect import Memory, mark_of
    from tests.gguf_models import write_model

    path = folder / f"tiny-{architecture}.gguf"
    if not path.exists():
        write_model(path, architecture)
        Memory.of(os.environ).add(path, mark_of(path))
    return path


@pytest.fixture(scope="session")
def tiny_llama(model_folder: Path) -> Path:
    return _model(model_folder, "llama")


@pytest.fixture(scope="session")
def tiny_swa(model_folder: Path) -> Path:
    return _model(model_folder, "swa")


@pytest.fixture(scope="session")
def tiny_recurrent(model_folder: Path) -> Path:
    return _model(model_folder, "recurrent")


@pytest.fixture(scope="session")
def tiny_hybrid(model_folder: Path) -> Path:
    return _model(model_folder, "hybrid")


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """The folder of trained models; a test that wants it is skipped where it is missing."""
    told = os.environ.get("LLAMAHOST_TEST_MODELS")
    folder = Path(told) if told else Path(__file__).resolve().parents[2] / "shared" / "models"
    if not (folder / "stories260K.gguf").exists():
        pytest.skip(f"no trained models in {folder}; LLAMAHOST_TEST_MODELS names another folder")
    return folder
