"""Laws of names that have an adapter: whoever asks for one is answered with it, or told that there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamahost.core.errors import ModelNotFound
from llamahost.fleet.crew.adapted import Adapted
from llamahost.fleet.crew.place import Place
from llamahost.fleet.memory.residents import Model
from llamahost.fleet.settings.adapter_spec import AdapterSpec
from llamahost.fleet.settings.manifest import ModelSpec


def place(name: str, *adapters: str, alias: str) -> Place:
    specs = tuple(AdapterSpec(name=each, path=Path("a.gguf")) for each in adapters)
    return Place(Model(ModelSpec(name=name, path=Path("m.gguf"), aliases=(alias,), adapters=specs)))


PLACES = (place("talk", "pirate", "old_poet", alias="gpt-*"), place("Talk-8B", alias="tk"), place("plain", alias="p"))
ADAPTED = Adapted({name: each for each in PLACES for name in (each.name, *each.spec.aliases)})


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("talk:pirate", ("talk", "pirate")),
        ("TALK:pirate", ("talk", "pirate")),
        ("models/talk.gguf:Pirate", ("talk", "pirate")),
        ("Talk:old-poet", ("talk", "old_poet")),
        ("pirate", ("talk", "pirate")),
        ("talk:latest", ("talk:latest", "")),
        ("Talk:8b", ("Talk:8b", "")),
        ("plain:q8_0", ("plain:q8_0", "")),
        ("gpt-4o", ("gpt-4o", "")),
    ],
)
def test_an_adapter_is_found_under_any_name_of_its_model(name: str, meant: tuple[str, str]) -> None:
    assert ADAPTED.find(name) == meant


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("TALK:pirat", "talk:pirate"),
        ("talk:nobody", "talk"),
        ("plain:pirate", "talk:pirate"),
        ("a-route:pirate", "talk:pirate"),
        ("gpt-4o:pirate", "talk:pirate"),
    ],
)
def test_an_adapter_that_is_not_there_is_no_tag_that_says_nothing(name: str, nearest: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        ADAPTED.find(name)
    assert caught.value.nearest == nearest
