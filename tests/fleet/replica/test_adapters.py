"""Laws of the table of adapters: who may be asked for, and when the memory of one is let go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llamahost.core.errors import InvalidRequest, ManifestError
from llamahost.core.messages import AdapterUse
from llamahost.fleet.replica.adapters import AdapterTable, Numbers, adapter_named, rescaled
from llamahost.fleet.settings.adapter_spec import MAX_TOGETHER, AdapterSpec, check_together


def spec(name: str = "poet", **more: Any) -> AdapterSpec:
    return AdapterSpec(name=name, path=Path(f"{name}.gguf"), **more)


def table(*specs: AdapterSpec) -> tuple[AdapterTable, list[int]]:
    freed: list[int] = []
    made = AdapterTable("base", freed.append)
    for id_, each in enumerate(specs, 100):
        made.add(each, id_)
    return made, freed


def test_an_adapter_is_freed_when_it_is_gone_and_the_last_that_used_it_too() -> None:
    adapters, freed = table(spec("poet"), spec("judge"))
    one = adapters.of((AdapterUse("poet"),))
    with adapters.held(one):
        with adapters.held(one):
            adapters.remove("poet")
            assert "poet" not in adapters
        assert freed == []
        adapters.add(spec("poet"), 102)
        assert adapters.of((AdapterUse("poet"),)) == ((102, 1.0),), "and another of its name is another"
    assert freed == [100]
    adapters.remove("judge")
    assert freed == [100, 101]


def test_those_of_scale_0_are_left_out_and_the_rest_is_in_order() -> None:
    adapters, _ = table(spec("a", default_scale=0.5), spec("b", scale=2.0), spec("c"))
    assert adapters.of(()) == ((100, 0.5),)
    uses = (AdapterUse("c", -1.0), AdapterUse("b"), AdapterUse("a", 0.0))
    assert adapters.of(uses) == ((101, 2.0), (102, -1.0))
    adapters.rescale([spec("a"), spec("c", default_scale=2.0)])
    assert adapters.of(()) == ((102, 2.0),)
    adapters.remove("c")
    assert adapters.of(()) == ()


def test_a_number_is_an_adapters_own_for_good() -> None:
    numbers, specs = Numbers(), [spec("a"), spec("b"), spec("c")]
    assert numbers.found(1, specs, "base", "lora").name == "b"
    specs = [specs[2], spec("d")]
    assert numbers.of(specs) == {"c": 2, "d": 3}
    for wrong in (0, 1, "a", 4):
        with pytest.raises(InvalidRequest, match=r"it has c \(2\), d \(3\)"):
            numbers.found(wrong, specs, "base", "lora")


def test_default_scales_are_changed_all_or_none() -> None:
    specs = [spec(f"a{k}", default_scale=float(k < MAX_TOGETHER)) for k in range(MAX_TOGETHER + 1)]
    check_together(specs)
    assert [each.default_scale for each in rescaled(specs, {"a1": 0.25})][:3] == [0.0, 0.25, 0.0]
    for wrong in ({f"a{k}": 1.0 for k in range(MAX_TOGETHER + 1)}, {"a0": 1e9}):
        with pytest.raises(InvalidRequest):
            rescaled(specs, wrong)


def test_no_more_work_together_than_a_graph_has_room_for() -> None:
    specs = [spec(f"a{k}") for k in range(MAX_TOGETHER + 1)]
    adapters, _ = table(*specs)
    with pytest.raises(InvalidRequest, match="at most"):
        adapters.of([AdapterUse(each.name) for each in specs])
    with pytest.raises(ManifestError, match="at most"):
        check_together([spec(each.name, default_scale=1.0) for each in specs])


def test_a_name_means_a_model_and_its_adapter_or_an_adapter_that_only_one_has() -> None:
    first, second = (spec("poet"),), (spec("poet"), spec("judge"))
    specs = {"a": first, "alias-of-a": first, "b:7b": second}
    assert adapter_named("a:poet", specs) == ("a", "poet")
    assert adapter_named("b:7b:judge", specs) == ("b:7b", "judge")
    assert adapter_named("judge", specs) == ("b:7b", "judge")
    assert adapter_named("poet", specs) is None
    assert adapter_named("a:judge", specs) is None


@pytest.mark.parametrize("wrong", [{"scale": 101.0}, {"scale": True}, {"scale": float("nan")}, {"default_scale": "1"}])
def test_a_scale_is_a_number_within_bounds(wrong: dict[str, Any]) -> None:
    with pytest.raises(ManifestError):
        spec(**wrong)


def test_a_path_has_no_nul() -> None:
    with pytest.raises(ManifestError, match="NUL"):
        AdapterSpec(name="a", path=Path("a\0b"))


@pytest.mark.parametrize("name", ["", " ", "a:b", "x" * 257, "a\nb", 3])
def test_a_name_is_printable_and_has_no_colon(name: Any) -> None:
    with pytest.raises(ManifestError):
        AdapterSpec(name=name, path=Path("a.gguf"))
