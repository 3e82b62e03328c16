"""Laws of what is asked for: by whom, what is meant, and what is said where it is not there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llamahost.core.errors import LoadFailed, PullFailed
from llamahost.files.download import Puller
from llamahost.files.hub import Hub, Offline
from llamahost.files.local import Places
from llamahost.files.repo import parse_reference
from llamahost.fleet.machine.located import located
from llamahost.fleet.settings.manifest import Manifest, ModelSpec, ServerSettings
from tests.files.pulling import NAME, pulled, puller, remains
from tests.loopback_hub import COMMIT, LoopbackHub


def test_secrets_are_in_no_text_that_is_made_of_what_holds_them() -> None:
    for holder in (
        Hub(token="sesame"),
        ServerSettings(api_key="sesame"),
        Manifest(server=ServerSettings(api_key="sesame")),
    ):
        assert "sesame" not in f"{holder!r} {holder}"


def test_tokens_reach_the_hub_and_never_the_store(hub: LoopbackHub, places: Places, model: bytes) -> None:
    hub.add(NAME, {"tiny.gguf": model}, token="right", is_gated=True)
    with pytest.raises(PullFailed, match=r"is gated: agree to its terms at http.*HF_TOKEN"):
        puller(hub, places, "wrong").pull(parse_reference(NAME))
    hub.repos[NAME].is_gated = False
    with pytest.raises(PullFailed, match="knows no repository Maker/Tiny-GGUF, or it is private"):
        puller(hub, places, "wrong").pull(parse_reference(NAME))
    assert puller(hub, places, "right").pull(parse_reference(NAME)).paths[0].read_bytes() == model
    assert {each.headers.get("authorization") for each in hub.asked if not each.is_store} == {
        "Bearer wrong",
        "Bearer right",
    }
    assert all("authorization" not in each.headers for each in hub.stored)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("Maker/Nothing", "knows no repository Maker/Nothing"),
        (f"{NAME}:Q3_K_M", r"has no Q3_K_M; there is Q8_0 \(.* KiB\), F16 \("),
        (f"{NAME}/other.gguf", r"has no file other.gguf; there is Q8_0"),
        ("Maker/Plain", "holds no GGUF model"),
        ("Maker/Hostile", "holds no GGUF model"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(
    hub: LoopbackHub, places: Places, model: bytes, text: str, complaint: str
) -> None:
    hub.add(NAME, {"tiny-F16.gguf": model + b"16", "tiny-Q8_0.gguf": model, "mmproj-Q8_0.gguf": b"GGUF"})
    hub.add("Maker/Plain", {"model.safetensors": b"x"})
    hub.add("Maker/Hostile", {"../../../evil.gguf": model, "/etc/evil.gguf": model})
    with pytest.raises(PullFailed, match=complaint) as caught:
        pulled(hub, places, text)
    assert caught.value.is_unknown
    with pytest.raises(PullFailed, match="has no revision v9"):
        puller(hub, places).pull(parse_reference(NAME, revision="v9"))
    assert remains(places) == []


def test_a_choice_that_nobody_asked_for_is_told(hub: LoopbackHub, places: Places, model: bytes) -> None:
    hub.add(NAME, {"tiny-F16.gguf": model + b"16", "tiny-Q8_0.gguf": model + b"8", "tiny-IQ4_XS.gguf": model})
    found = pulled(hub, places, NAME)
    assert (found.quant, found.note) == ("IQ4_XS", "it has no Q4_K_M, and IQ4_XS is nearest")


def test_without_the_hub_there_is_what_lies_here(hub: LoopbackHub, places: Places, model: bytes) -> None:
    hub.add(NAME, {"tiny-Q8_0.gguf": model})
    nobody = Puller(hub=Hub("http://127.0.0.1:9", token="none"), places=places, backoff_s=0.0)
    with pytest.raises(Offline, match=r"does not answer.*nothing of it is here yet"):
        nobody.pull(parse_reference(NAME))
    first = pulled(hub, places, NAME)
    again = nobody.pull(parse_reference(NAME))
    assert (again.paths, again.n_fetched) == (first.paths, 0)
    assert "does not answer" in again.note
    with pytest.raises(Offline, match=r"HF_HUB_OFFLINE is set.*there is Maker/Tiny-GGUF:Q8_0 here"):
        replace(nobody, hub=Hub(is_offline=True)).pull(parse_reference(f"{NAME}:Q4_K_M"))


def test_a_spec_of_a_repository_is_located_here_or_says_what_to_do(
    hub: LoopbackHub, places: Places, model: bytes
) -> None:
    spec = ModelSpec(name="mine", repo=NAME, quant="Q8_0")
    with pytest.raises(LoadFailed, match=r"Maker/Tiny-GGUF:Q8_0 is not on this machine yet; `llamahost pull mine`"):
        located(spec, places)
    hub.add(NAME, {"tiny-Q8_0.gguf": model, "tiny-F16.gguf": model})
    found = pulled(hub, places, f"{NAME}:Q8_0")
    assert located(spec, places) == replace(spec, path=found.paths[0])
    assert located(replace(spec, revision=COMMIT), places).path == found.paths[0]
    with pytest.raises(LoadFailed):
        located(replace(spec, revision="v2"), places)
