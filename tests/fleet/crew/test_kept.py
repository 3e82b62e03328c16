"""Laws of what outlives a model's unload, and the process: within its budget, never a wrong state, nothing half."""

from __future__ import annotations

import asyncio
import os
import stat
from array import array
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llamahost import AsyncHost
from llamahost.core.events import Delta, Finished
from llamahost.core.messages import ChatRequest, CompletionRequest, Generation, Message, Text
from llamahost.core.sampling import SamplingOptions
from llamahost.core.work import KeptSlot
from llamahost.fleet.crew.keeping import Keeping
from llamahost.fleet.crew.kept import Kept, KeptPrefixes
from llamahost.fleet.crew.kept_files import MAX_AGE_S, PrefixFiles
from llamahost.fleet.machine.cache import written
from llamahost.fleet.machine.fit import Shape
from llamahost.fleet.machine.footprint import Footprint
from llamahost.fleet.machine.weighed import MAX_MODELS, Weighed
from llamahost.fleet.memory import residents
from llamahost.fleet.memory.placement import Placement
from llamahost.fleet.settings.manifest import Manifest, ServerSettings
from tests.fleet.budgeted import MB, host_of, spec
from tests.on_loop import on_loop, turns

SLOTS = (KeptSlot(array("i", [1, 2, 3]), b"one" * 50), KeptSlot(array("i", [4]), b"two" * 20))


def test_what_is_kept_stays_within_its_budget() -> None:
    kept = KeptPrefixes()
    gone = []
    for k in range(4):
        gone += kept.put(Kept(k, "a#0", (KeptSlot(array("i", [1]), bytes(40)),)), 100)
        assert kept.n_bytes <= 100
    assert [each.key for each in gone] == [0, 1]
    assert [bool(kept.take(k, "a#0")) for k in range(4)] == [False, False, True, True]
    assert kept.n_bytes == 0


@pytest.mark.parametrize("where", ["memory", "files"])
def test_each_replica_finds_its_own_again_else_its_models_else_what_fits(tmp_path: Path, where: str) -> None:
    memory, files = KeptPrefixes(), PrefixFiles(tmp_path)

    def put(replica: str, n: int, n_replicas: int) -> None:
        kept = Kept("key", replica, (KeptSlot(array("i", [n]), b"state"),), n_replicas)
        memory.put(kept, 10_000) if where == "memory" else files.put(kept, 10_000)
        for age, path in enumerate(sorted(tmp_path.iterdir(), key=lambda each: each.stat().st_mtime_ns, reverse=True)):
            os.utime(path, (0, path.stat().st_mtime - age))  # whatever the file system's clock

    def get(replica: str, key: str = "key") -> list[int]:
        found = memory.take(key, replica) if where == "memory" else files.get(key, replica, 10_000)
        return [slot.tokens[0] for slot in found]

    put("a#0", 1, 2)
    put("a#1", 2, 2)
    put("b#0", 3, 1)
    assert [get("a#1"), get("a#0"), get("b#0"), get("a#0", "another key")] == [[2], [1], [3], []]
    put("a#0", 4, 1)
    put("a#1", 5, 1)  # in the place of the other, which was before it
    put("b#0", 6, 1)
    assert get("a#0") == [5], "its model's"
    assert get("c#0") == [6], "what fits: it has another name now"


def test_what_is_written_is_found_by_its_key_alone(tmp_path: Path) -> None:
    files = PrefixFiles(tmp_path / "prefixes")
    files.put(Kept(("a", 1), "a#0", SLOTS), 10_000)
    assert files.get(("a", 1), "a#0", 10_000) == SLOTS
    assert files.get(("a", 2), "a#0", 10_000) == ()
    assert PrefixFiles(tmp_path / "prefixes").get(("a", 1), "a#0", 10_000) == SLOTS, "by another process too"
    (path,) = files.folder.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600, "prompts are in it"
    assert stat.S_IMODE(files.folder.stat().st_mode) == 0o700
    files.put(Kept(("a", 1), "a#0", SLOTS[:1]), 10_000)
    assert files.get(("a", 1), "a#0", 10_000) == SLOTS[:1]


def test_a_file_that_is_not_as_it_was_written_is_removed_and_never_restored(tmp_path: Path) -> None:
    files = PrefixFiles(tmp_path)
    files.put(Kept("key", "a#0", SLOTS), 10_000)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    broken = [b"", b"LHKEPT1\n", whole[:-1], whole + b"x", whole.replace(b"LHKEPT1", b"LHKEPT0")]
    broken += [
        whole[:k] + bytes([whole[k] ^ 1]) + whole[k + 1 :] for k in range(8, len(whole) - 300, 7) if not 40 <= k < 48
    ]
    for data in broken:
        path.write_bytes(data)
        assert files.get("key", "a#0", 10_000) == ()
        assert not path.exists()


def test_files_stay_within_their_budget_and_the_old_ones_leave(tmp_path: Path) -> None:
    files = PrefixFiles(tmp_path)
    for k in range(5):
        files.put(Kept(k, "a#0", SLOTS), 10_000)
        path = max(tmp_path.iterdir(), key=lambda each: each.stat().st_mtime_ns)
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 100 + k))
    size = path.stat().st_size
    files.trim(3 * size)
    assert [bool(files.get(k, "a#0", 10_000)) for k in range(5)] == [False, False, True, True, True]
    files.put(Kept(9, "a#0", SLOTS), size - 1)
    assert files.get(9, "a#0", 10_000) == (), "it is more than all may be"
    files.put(Kept(9, "a#0", SLOTS), 10_000)
    (path,) = tmp_path.iterdir()
    os.utime(path, (0, path.stat().st_mtime - MAX_AGE_S - 1))
    scrap = tmp_path / ".x.prefixes.1.new"
    scrap.write_bytes(b"half")
    strange = tmp_path / "letter.txt"
    strange.write_bytes(b"somebody's")
    for each in (scrap, strange):
        os.utime(each, (0, 0))
    files.trim(10_000)
    assert list(tmp_path.iterdir()) == [strange], "what is not ours is left alone"


def test_a_budget_that_became_smaller_holds_at_once_in_files_too(tmp_path: Path) -> None:
    files = PrefixFiles(tmp_path)
    for k in range(3):
        files.put(Kept(k, "a#0", SLOTS), 10_000)
    size = max(path.stat().st_size for path in tmp_path.iterdir())
    asyncio.run(Keeping(files).fit(ServerSettings(prefix_disk_bytes=2 * size)))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_cannot_be_written_costs_nothing_but_what_it_would_have_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    files = PrefixFiles(tmp_path / "file" / "prefixes")
    files.put(Kept("key", "a#0", SLOTS), 10_000)
    assert files.get("key", "a#0", 10_000) == ()


@pytest.mark.parametrize("n_free", [10**12, 90])
def test_however_much_may_be_kept_it_passes_through_no_more_memory_than_a_third_of_what_is_free(
    tmp_path: Path, n_free: int
) -> None:
    asked: list[int] = []
    settings = ServerSettings(prefix_bytes=0, prefix_disk_bytes=10**9)

    async def keep(n_most: int) -> tuple[KeptSlot, ...]:
        asked.append(n_most)
        return SLOTS

    shape = Placement(devices=("cpu",), shape=SHAPE)
    record = residents.Replica("a#0", shape, {}, last_used=0.0, seen="file")
    one = spec("a", Path("a.gguf"), keep_prefixes=True)
    running: Any = SimpleNamespace(record=record, replica=SimpleNamespace(spec=one, keep=keep))

    @on_loop
    async def law() -> None:
        keeping = Keeping(PrefixFiles(tmp_path), lambda: n_free)
        await keeping.keep(running, settings)
        assert asked == [min(10**9, n_free // 3)]
        found = await keeping.read(record, one, settings)
        assert found == (SLOTS if n_free > 1000 else ())

    law()
    assert len(list(tmp_path.iterdir())) == 1, "for when there is more room"


@on_loop
async def test_each_replica_finds_its_own_where_memory_has_room_for_one_alone(tmp_path: Path) -> None:
    one = spec("a", Path("a.gguf"), keep_prefixes=True, replicas=2)
    settings = ServerSettings(prefix_bytes=200, prefix_disk_bytes=10_000)
    keeping = Keeping(PrefixFiles(tmp_path), lambda: 10**9)
    placement = Placement(devices=("cpu",), shape=SHAPE)
    records = [residents.Replica(f"a#{k}", placement, {}, last_used=0.0, seen="file") for k in range(2)]

    for number, record in enumerate(records):
        held: asyncio.Future[tuple[KeptSlot, ...]] = asyncio.get_running_loop().create_future()
        held.set_result((KeptSlot(array("i", [number]), bytes(150)),))
        replica = SimpleNamespace(spec=one, keep=lambda _, held=held: held)
        running: Any = SimpleNamespace(record=record, replica=replica)
        await keeping.keep(running, settings, 2)
    found = [keeping.take(record, one, await keeping.read(record, one, settings)) for record in records]
    assert [[slot.tokens[0] for slot in slots] for slots in found] == [[0], [1]]


def test_two_that_write_one_file_at_once_write_it_whole_each(tmp_path: Path) -> None:
    file = tmp_path / "a"
    with written(file) as one, written(file) as other:
        one.write(b"first and longer")
        other.write(b"second")
    assert file.read_bytes() == b"first and longer"
    assert list(tmp_path.iterdir()) == [file]


def test_prefixes_are_there_again_in_the_next_process_where_that_is_asked(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMAHOST_CACHE", str(tmp_path))
    prompt = tuple(range(20, 70))
    greedy = Generation(max_tokens=8, sampling=SamplingOptions(temperature=0.0), ignore_eos=True)

    @on_loop
    async def law() -> None:
        texts = []
        for n_cached in (0, len(prompt)):
            one = spec("a", tiny_llama, n_ctx=256, keep_prefixes=True)
            async with host_of(one, budgets={"cpu-0": 100 * MB}, prefix_disk_bytes=MB) as host:
                request = CompletionRequest(prompts=(prompt,), model="a", generation=greedy)
                longer = CompletionRequest(prompts=((*prompt, 71, 72),), model="a", generation=greedy)
                events = [event async for event in host.complete(longer)]
                (end,) = (event for event in events if isinstance(event, Finished))
                assert end.usage.n_cached == n_cached
                texts.append("".join(event.text for event in events if isinstance(event, Delta)))
                assert [event async for event in host.complete(request)]
        assert len(set(texts)) == 1
        other = spec("a", tiny_llama, n_ctx=256, keep_prefixes=True, kv_type_k="f32")
        async with host_of(other, budgets={"cpu-0": 100 * MB}, prefix_disk_bytes=MB) as host:
            events = [event async for event in host.complete(longer)]
            (end,) = (event for event in events if isinstance(event, Finished))
            assert end.usage.n_cached == 0, "it is of other settings"

    law()


@on_loop
async def test_each_conversation_of_several_replicas_is_there_again_after_an_unload(tiny_llama: Path) -> None:
    async def n_cached(host: AsyncHost, k: int) -> int:
        generation = Generation(max_tokens=1, session_id=f"s{k}", ignore_eos=True)
        prompt = tuple(range(20 + 30 * k, 50 + 30 * k))
        events = [e async for e in host.complete(CompletionRequest(prompts=(prompt,), generation=generation))]
        (end,) = (event for event in events if isinstance(event, Finished))
        return end.usage.n_cached

    one = spec("a", tiny_llama, n_slots=4, replicas=2, keep_prefixes=True)
    async with host_of(one, budgets={"cpu-0": 100 * MB, "cpu-1": 100 * MB}) as host:
        for expected in (0, 29, 0):
            if not expected:  # what another manifest has no room for is gone
                await host.adopt(Manifest(models=(one,), server=ServerSettings(prefix_bytes=0)))
                await host.adopt(Manifest(models=(one,)))
            await host.load("a")
            while sum(each.state == "ready" for each in host.models()[0].replicas) < 2:
                await turns()
            assert [await n_cached(host, k) for k in range(4)] == [expected] * 4
            await host.unload("a")


@pytest.mark.parametrize("is_told", [True, False], ids=["with messages", "with tokens"])
def test_each_conversation_of_several_replicas_is_there_again_in_the_next_process(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_told: bool
) -> None:
    """No session tells whose it is; they come in another order. Each replica has slots for all: who is given how many
    depends on how long each took."""
    monkeypatch.setenv("LLAMAHOST_CACHE", str(tmp_path))
    generation = Generation(max_tokens=1, sampling=SamplingOptions(temperature=0.0), ignore_eos=True)
    one = spec("a", tiny_llama, n_slots=6, n_ctx=1024, replicas=2, load="start", keep_prefixes=True)

    def asked(k: int, *, goes_on: bool) -> ChatRequest | CompletionRequest:
        if not is_told:
            return CompletionRequest(prompts=(tuple(range(20 + k, 120 + k)),), generation=generation)
        told = [Message(role="system", parts=(Text("Be brief. " * 20),))]
        told.append(Message(role="user", parts=(Text(f"{k} " + f"What is {k}? " * 25),)))
        if goes_on:
            told.append(Message(role="assistant", parts=(Text("I know."),)))
            told.append(Message(role="user", parts=(Text("And more?"),)))
        return ChatRequest(messages=tuple(told), generation=generation)

    async def n_cached(host: AsyncHost, request: ChatRequest | CompletionRequest) -> tuple[int, int]:
        events = host.chat(request) if isinstance(request, ChatRequest) else host.complete(request)
        (end,) = [event async for event in events if isinstance(event, Finished)]
        return end.usage.n_cached, end.usage.n_prompt

    @on_loop
    async def law() -> None:
        for goes_on in (False, True):
            async with host_of(one, budgets={f"cpu-{k}": 100 * MB for k in range(2)}, prefix_disk_bytes=9 * MB) as host:
                while sum(each.state == "ready" for each in host.models()[0].replicas) < 2:
                    await turns()
                for k in (0, 1, 2, 3, 4, 5) if not goes_on else (0, 2, 4, 1, 3, 5):
                    n, n_prompt = await n_cached(host, asked(k, goes_on=goes_on))
                    assert n >= 0.85 * n_prompt if goes_on else n < 0.5 * n_prompt, k

    law()


@on_loop
async def test_what_was_kept_of_a_sliding_window_is_no_beginning_of_another_answer(tiny_swa: Path) -> None:
    """Of a window what has left it is not kept: only what goes on from its end finds all that it sees."""
    greedy = SamplingOptions(temperature=0.0)
    start = tuple(range(20, 120))

    async def said(host: AsyncHost, *tokens: int, max_tokens: int = 6) -> tuple[str, int]:
        generation = Generation(sampling=greedy, max_tokens=max_tokens, ignore_eos=True)
        events = [e async for e in host.complete(CompletionRequest(prompts=(tokens,), generation=generation))]
        (end,) = (event for event in events if isinstance(event, Finished))
        return "".join(event.text for event in events if isinstance(event, Delta)), end.usage.n_cached

    for tokens, n_cached in (((*start[:40], *start[:30]), 0), ((*start, 77), len(start))):
        async with host_of(spec("a", tiny_swa, n_ctx=256), budgets={"cpu-0": 100 * MB}) as host:
            alone, _ = await said(host, *tokens)
        async with host_of(spec("a", tiny_swa, n_ctx=256, keep_prefixes=True), budgets={"cpu-0": 100 * MB}) as host:
            await said(host, *start, max_tokens=1)
            await host.unload("a")
            assert await said(host, *tokens) == (alone, n_cached)


SHAPE = Shape(n_ctx=64, n_slots=2, n_cells=128, is_unified=False)
TAKEN = Footprint(weights_bytes=5, kv_bytes=6, compute_bytes=7)


def test_what_a_load_took_is_remembered_of_this_file_with_these_settings_here(tmp_path: Path) -> None:
    one = spec("a", Path("a.gguf"))
    weighed = Weighed.of(tmp_path, ("cpu",))
    weighed.add(("a", 1), one, SHAPE, TAKEN)
    assert weighed.known(("a", 1), one) == {SHAPE: TAKEN}
    assert weighed.known(("a", 2), one) == {}, "another file"
    assert weighed.known(("a", 1), spec("a", Path("a.gguf"), kv_type_k="f32")) == {}, "other settings"
    assert Weighed.of(tmp_path, ("CUDA0 H100", "cpu")).known(("a", 1), one) == {}, "another machine"
    assert weighed.known(None, one) == {}


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"x": 1}', b"\xff", b'{"%s": [[1]]}', b'{"%s": [[1,1,1,0,-5,1,1]]}', b'{"%s": 3}']
)
def test_a_memory_of_nonsense_is_none(tmp_path: Path, data: bytes) -> None:
    one = spec("a", Path("a.gguf"))
    weighed = Weighed.of(tmp_path, ("cpu",))
    weighed.file.write_bytes(data % weighed._key(1, one).encode() if b"%s" in data else data)
    assert weighed.known(1, one) == {}
    weighed.add(1, one, SHAPE, TAKEN)
    assert weighed.known(1, one) == {SHAPE: TAKEN}


def test_it_does_not_grow_without_end(tmp_path: Path) -> None:
    one = spec("a", Path("a.gguf"))
    weighed = Weighed.of(tmp_path, ("cpu",))
    weighed.add(0, one, SHAPE, TAKEN)
    known = weighed._read()
    (rows,) = known.values()
    from llamahost.fleet.machine.cache import write_json

    write_json(weighed.file, {str(k): rows for k in range(MAX_MODELS)})
    weighed.add(1, one, SHAPE, TAKEN)
    assert len(weighed._read()) == MAX_MODELS
    assert weighed.known(1, one)


def test_the_next_process_grants_what_the_last_one_saw(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMAHOST_CACHE", str(tmp_path))

    @on_loop
    async def law() -> None:
        seen = []
        for _ in range(2):
            async with host_of(spec("a", tiny_llama), budgets={"cpu-0": 100 * MB}) as host:
                await host.load("a")
                seen.append(host.models()[0].replicas[0])
        first, second = seen
        assert first.estimated != first.measured
        assert second.estimated == first.measured

    law()
