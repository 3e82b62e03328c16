"""Laws of pulling: what comes is whole, checked and found by other programs; what breaks off goes on; nothing lies."""

from __future__ import annotations

import hashlib
import json
import resource
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from llamahost.core.errors import PullFailed
from llamahost.files.download import Cancelled, Pulled, Step
from llamahost.files.hub import Hub, Listing
from llamahost.files.local import Places, find, models, named
from llamahost.files.remove import remove
from llamahost.files.repo import Reference, RepoFile, parse_reference
from tests.files.pulling import NAME, pulled, puller, remains
from tests.gguf_models import write_model
from tests.loopback_hub import COMMIT, LoopbackHub, sha256
from tests.on_loop import LIMIT_S


def test_the_real_client_finds_in_its_cache_what_was_pulled(hub: LoopbackHub, places: Places, model: bytes) -> None:
    from huggingface_hub import try_to_load_from_cache

    hub.add(NAME, {"README.md": b"hello", "tiny-Q8_0.gguf": model + b"8", "sub/tiny-Q4_K_M.gguf": model})
    steps: list[Step] = []
    found = pulled(hub, places, f"https://huggingface.co/{NAME}", steps)
    assert (found.quant, found.n_bytes, found.n_fetched, found.note) == ("Q4_K_M", len(model), len(model), "")
    assert found.paths[0].read_bytes() == model
    cached = try_to_load_from_cache(NAME, "sub/tiny-Q4_K_M.gguf", cache_dir=places.hub)
    assert Path(str(cached)) == found.paths[0]
    assert steps[0].kind == "listing"
    assert steps[-1].kind == "done"
    last = [step for step in steps if step.kind == "pulling"][-1]
    assert (last.n_done, last.n_total, last.digest) == (len(model), len(model), f"sha256:{sha256(model)}")
    n_asked = len(hub.stored)
    assert pulled(hub, places, NAME).n_fetched == 0
    assert len(hub.stored) == n_asked


@pytest.mark.filterwarnings("ignore::UserWarning")  # huggingface_hub's, of a hub that is not the real one
def test_the_loopback_hub_speaks_to_the_real_client(
    hub: LoopbackHub, tmp_path: Path, model: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfApi, constants, hf_hub_download

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)  # it asks the network what runs here
    hub.add(NAME, {"tiny-Q4_K_M.gguf": model})
    info = HfApi(endpoint=hub.endpoint, token=False).model_info(NAME, files_metadata=True)
    assert info.sha == COMMIT
    assert [(each.rfilename, each.lfs and each.lfs.sha256) for each in info.siblings or ()] == [
        ("tiny-Q4_K_M.gguf", sha256(model))
    ]
    path = hf_hub_download(NAME, "tiny-Q4_K_M.gguf", cache_dir=tmp_path, endpoint=hub.endpoint, token=False)
    assert Path(path).read_bytes() == model


@pytest.mark.parametrize("has_range", [True, False])
def test_what_breaks_off_goes_on_where_it_was(hub: LoopbackHub, places: Places, model: bytes, has_range: bool) -> None:
    hub.add(NAME, {"tiny.gguf": model})
    hub.ignores_range = not has_range
    hub.breaks_after += [10_000, 50_000]
    hub.refusals += [503]
    found = pulled(hub, places, NAME)
    assert found.paths[0].read_bytes() == model
    ranges = [each.headers.get("range") for each in hub.stored if each.headers.get("range")]
    assert ranges[-1] == ("bytes=60000-" if has_range else "bytes=50000-")
    assert found.n_fetched == len(model) + (0 if has_range else 60_000)


def test_a_pull_that_gave_up_is_nothing_whole_and_the_next_one_goes_on(
    hub: LoopbackHub, places: Places, model: bytes
) -> None:
    hub.add(NAME, {"tiny.gguf": model})
    hub.breaks_after += [30_000, *[0] * 9]
    with pytest.raises(PullFailed, match=r"broke off at 29.3 KiB of .*goes on from there"):
        pulled(hub, places, NAME)
    assert [path.name.rpartition(".")[2] for path in remains(places)] == ["incomplete"]
    assert models(places) == []
    hub.breaks_after.clear()
    assert pulled(hub, places, NAME).n_fetched == len(model) - 30_000


def test_damaged_remains_of_an_earlier_pull_are_found_out_and_fetched_anew(
    hub: LoopbackHub, places: Places, model: bytes
) -> None:
    hub.add(NAME, {"tiny.gguf": model})
    blobs = places.repo_folder(NAME) / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{sha256(model)}.llamahost.incomplete").write_bytes(b"GGUF" + b"\0" * 5000)
    found = pulled(hub, places, NAME)
    assert found.paths[0].read_bytes() == model
    assert found.n_fetched == 2 * len(model) - 5004


def test_nothing_is_kept_of_what_is_not_what_was_announced(hub: LoopbackHub, places: Places, model: bytes) -> None:
    hub.add(NAME, {"tiny.gguf": model, "page.gguf": b"<html>no model</html>", "cut.gguf": model[:3000]})
    with pytest.raises(PullFailed, match=r"page.gguf is no GGUF file: it begins with b'<htm'"):
        pulled(hub, places, f"{NAME}/page.gguf")
    with pytest.raises(PullFailed, match=r"cut.gguf is not a usable GGUF file.*nothing of it is kept"):
        pulled(hub, places, f"{NAME}/cut.gguf")
    hub.corrupts = True
    with pytest.raises(PullFailed, match=r"tiny.gguf came with other bytes"):
        pulled(hub, places, f"{NAME}/tiny.gguf")
    assert [path for path in remains(places) if path.stat().st_size] == []
    assert models(places) == []


def test_shards_come_together_or_not_at_all(hub: LoopbackHub, places: Places, tmp_path: Path) -> None:
    write_model(tmp_path / "big-Q4_K_M.gguf", split_max_tensors=8)
    shards = {path.name: path.read_bytes() for path in sorted(tmp_path.glob("big-*.gguf"))}
    assert len(shards) >= 3
    hub.add(NAME, {f"Q4_K_M/{name}": data for name, data in shards.items()})
    first = len(next(iter(shards.values())))
    hub.breaks_after += [first, 100, *[0] * 9]
    with pytest.raises(PullFailed, match="broke off"):
        pulled(hub, places, f"{NAME}:q4_k_m")
    assert models(places) == []  # the first one is whole, and the model is not
    hub.breaks_after.clear()
    steps: list[Step] = []
    found = pulled(hub, places, f"{NAME}:q4_k_m", steps)
    assert [path.name for path in found.paths] == list(shards)
    assert [path.read_bytes() for path in found.paths] == list(shards.values())
    assert {(step.index, step.n_files) for step in steps if step.kind == "pulling"} == {
        (k, len(shards)) for k in range(1, len(shards))
    }
    (here,) = models(places)
    assert (here.name, here.is_whole, here.n_bytes) == (f"{NAME}:Q4_K_M", True, sum(map(len, shards.values())))
    found.paths[1].unlink()
    assert find(places, parse_reference(NAME)) is None


def test_what_other_programs_have_is_linked_and_not_fetched(
    hub: LoopbackHub, places: Places, model: bytes, tmp_path: Path
) -> None:
    ollama, studio = model + b"ollama", model + b"studio"
    hub.add(NAME, {"a-Q4_K_M.gguf": ollama, "b-Q8_0.gguf": studio, "c-F16.gguf": model})
    blob = tmp_path / "ollama" / "blobs" / f"sha256-{sha256(ollama)}"
    manifest = tmp_path / "ollama" / "manifests" / "registry.ollama.ai" / "library" / "tiny" / "3b"
    copy = places.lm_studio[0] / "Maker" / "Tiny-GGUF" / "b-Q8_0.gguf"
    other = places.llama_cpp / "Maker_Tiny-GGUF_c-F16.gguf"  # of the same size, and not the same
    for path in (blob, manifest, copy, other):
        path.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(ollama)
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{sha256(ollama)}"}
    manifest.write_text(json.dumps({"layers": [{"mediaType": "x", "digest": "y"}, layer]}))
    copy.write_bytes(studio)
    other.write_bytes(model[:-1] + bytes([model[-1] ^ 1]))
    assert {(each.name, each.owner) for each in models(places)} == {
        ("tiny:3b", "Ollama"),
        (f"{NAME}:Q8_0", "LM Studio"),
        (f"{NAME}:F16", "llama.cpp"),
    }
    for quant, source in (("Q4_K_M", blob), ("Q8_0", copy)):
        found = pulled(hub, places, f"{NAME}:{quant}")
        assert found.n_fetched == 0
        assert found.paths[0].samefile(source)
        assert str(source) in found.note
    assert hub.stored == []
    assert pulled(hub, places, f"{NAME}:F16").n_fetched == len(model)
    ollama_s = named(places, "tiny:3b")
    assert ollama_s is not None
    assert ollama_s.path == blob


def test_a_full_disk_is_told_before_and_while_it_happens(hub: LoopbackHub, places: Places, model: bytes) -> None:
    hub.add(NAME, {"tiny.gguf": model})
    small = replace(puller(hub, places), free_bytes=lambda folder: 1000)
    with pytest.raises(
        PullFailed, match=r"needs .* more beside 64.0 MiB that stay free, and 1000 B are free in .*HF_HUB_CACHE"
    ):
        small.pull(parse_reference(NAME))
    assert hub.stored == []
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    try:
        with pytest.raises(PullFailed, match="there is no room left in"):
            pulled(hub, places, NAME)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert models(places) == []
    assert pulled(hub, places, NAME).n_fetched == len(model) - 40_000


@pytest.mark.parametrize("breaks", [False, True])
def test_what_no_hub_sends_at_once_comes_in_pieces(
    hub: LoopbackHub, places: Places, model: bytes, breaks: bool
) -> None:
    hub.add(NAME, {"huge-Q8_0.gguf": model})
    hub.n_most = len(model) // 3
    with pytest.raises(PullFailed, match="refuses Maker/Tiny-GGUF with 400"):
        pulled(hub, places, NAME)
    in_pieces = replace(puller(hub, places), whole_bytes=len(model) - 1, piece_bytes=hub.n_most)
    hub.asked.clear()
    hub.breaks_after += [10_000] if breaks else []
    assert in_pieces.pull(parse_reference(NAME)).paths[0].read_bytes() == model
    ranges = [each.headers["range"] for each in hub.stored]
    assert ranges[0] == f"bytes=0-{hub.n_most - 1}"
    assert ranges[1] == (f"bytes=10000-{hub.n_most + 9999}" if breaks else f"bytes={hub.n_most}-{2 * hub.n_most - 1}")
    assert ranges[-1].endswith(f"-{len(model) - 1}")


class OneLargeFile(Hub):
    """Claims a file of 60 GB, of which it has the beginning."""

    def listing(self, reference: Reference) -> Listing:
        found = Hub.listing(self, reference)
        return replace(found, files=tuple(replace(each, size=60 * 10**9) for each in found.files))


def test_a_file_of_60_gb_is_asked_for_in_pieces_and_where_those_are_refused_what_fetches_it_is_told(
    hub: LoopbackHub, places: Places, model: bytes
) -> None:
    hub.add(NAME, {"huge-Q8_0.gguf": model})
    large = replace(puller(hub, places), hub=OneLargeFile(hub.endpoint, token="none"), free_bytes=lambda folder: 10**12)
    hub.refusals += [400]
    with pytest.raises(PullFailed, match=r"with 400; a file of 55\.9 GiB may .* `hf download Maker/Tiny-GGUF huge"):
        large.pull(parse_reference(NAME))
    assert remains(places) == []
    hub.breaks_after += [len(model), *[0] * 5]
    with pytest.raises(PullFailed, match=r"broke off at .* of 55\.9 GiB"):
        large.pull(parse_reference(NAME))
    first, *_, last = (each.headers["range"] for each in hub.stored[1:])
    assert (first, last) == (f"bytes=0-{2**33 - 1}", f"bytes={len(model)}-{len(model) + 2**33 - 1}")


def test_a_busy_hub_is_asked_again(hub: LoopbackHub, places: Places, model: bytes) -> None:
    hub.add(NAME, {"tiny.gguf": model})
    hub.busy += [503, 429]
    assert pulled(hub, places, NAME).n_fetched == len(model)
    hub.busy += [503] * 9
    assert "does not answer: 503" in pulled(hub, places, NAME).note
    hub.busy.clear()


def test_cancelling_ends_it_at_the_next_bytes_and_keeps_what_came(
    hub: LoopbackHub, places: Places, model: bytes
) -> None:
    hub.add(NAME, {"tiny.gguf": model})
    cancelled, began = threading.Event(), threading.Event()
    with pytest.raises(Cancelled):
        puller(hub, places).pull(
            parse_reference(NAME), lambda step: cancelled.set() if step.kind == "pulling" else began.set(), cancelled
        )
    (partial,) = remains(places)
    assert 0 < partial.stat().st_size < len(model)


def test_two_pulls_of_one_file_fetch_it_once(hub: LoopbackHub, places: Places, model: bytes) -> None:
    hub.add(NAME, {"tiny.gguf": model})
    hub.gate = threading.Event()
    found: list[Pulled] = []
    waits = threading.Event()
    first = threading.Thread(target=lambda: found.append(pulled(hub, places, NAME)))
    first.start()
    assert hub.waiting.wait(LIMIT_S)
    second = threading.Thread(
        target=lambda: found.append(
            puller(hub, places).pull(
                parse_reference(NAME), lambda step: waits.set() if step.kind == "waiting" else None
            )
        )
    )
    second.start()
    assert waits.wait(LIMIT_S)
    hub.gate.set()
    first.join(LIMIT_S)
    second.join(LIMIT_S)
    assert sorted(each.n_fetched for each in found) == [0, len(model)]
    assert len(hub.stored) == 1


def test_a_file_in_git_itself_is_checked_by_git_s_sum(hub: LoopbackHub, places: Places, model: bytes) -> None:
    git = hashlib.sha1(b"blob %d\0" % len(model) + model).hexdigest()
    hub.add(NAME, {"tiny.gguf": model})

    class OfGit(Hub):
        def listing(self, reference: object) -> object:  # type: ignore[override]  # a listing of another kind
            found = super().listing(reference)  # type: ignore[arg-type]  # the same
            return replace(found, files=(RepoFile("tiny.gguf", len(model), git_sha1=git),))

    found = replace(puller(hub, places), hub=OfGit(hub.endpoint, token="none")).pull(parse_reference(NAME))
    assert str(found.paths[0].readlink()) == f"../../blobs/{git}"
    assert found.paths[0].read_bytes() == model


def test_what_lies_behind_a_link_is_removed_with_its_bytes(
    hub: LoopbackHub, places: Places, model: bytes, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    (tmp_path / "link").symlink_to(disk)
    behind = replace(places, hub=tmp_path / "link" / "hub")
    hub.add(NAME, {"tiny-Q4_K_M.gguf": model})
    pulled(hub, behind, NAME)
    found = named(behind, NAME)
    assert found is not None
    assert remove(found, behind) == len(model)
    assert not [path for path in disk.rglob("*") if path.is_file()]
