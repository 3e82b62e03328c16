"""The LoRA adapters of a model: what they are called, how strongly they work, and who uses them. Knows no C, only ids.

law: an adapter that is taken away answers nobody new at once, and is freed when the last answer with it is over
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace

from llamahost.core.errors import InvalidRequest, ManifestError
from llamahost.core.messages import AdapterUse
from llamahost.core.work import NO_ADAPTERS, Adapters
from llamahost.fleet.settings.adapter_spec import MAX_ADAPTERS, MAX_TOGETHER, AdapterSpec, check_scale, check_together


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterStatus:
    """An adapter as it stands now. `number` is its own among those of the model, for good."""

    number: int
    spec: AdapterSpec
    n_in_use: int = 0  # answers that are being made with it


class Numbers:
    """Owned by the loop. What llama-server's API calls a model's adapters by: from 0 on, and none is given twice."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._gone: dict[str, None] = {}  # names, the last ones last
        self._n_ever = 0

    def of(self, specs: Sequence[AdapterSpec]) -> Mapping[str, int]:
        """By name."""
        if self._numbers.keys() != {spec.name for spec in specs}:
            kept = {spec.name: self._numbers.get(spec.name, -1) for spec in specs}
            for name, number in kept.items():
                if number < 0:
                    kept[name], self._n_ever = self._n_ever, self._n_ever + 1
            self._gone |= dict.fromkeys(self._numbers.keys() - kept.keys())
            for name in (*kept, *tuple(self._gone)[:-MAX_ADAPTERS]):
                self._gone.pop(name, None)
            self._numbers = kept
        return self._numbers

    def had(self, name: str, specs: Sequence[AdapterSpec]) -> bool:
        """One of that name, which is gone: a request for it means that and not the model alone."""
        self.of(specs)
        return name in self._gone

    def found(self, key: int | str, specs: Sequence[AdapterSpec], model: str, param: str) -> AdapterSpec:
        """The one of that name or number. Raises InvalidRequest."""
        numbers = self.of(specs)
        for spec in specs:
            if key == (spec.name if isinstance(key, str) else numbers[spec.name]):
                return spec
        known = ", ".join(f"{name} ({number})" for name, number in numbers.items())
        raise InvalidRequest(f"`{model}` has no adapter {key!r:.80}; it has {known[:400] or 'none'}", param=param)


def rescaled(specs: Sequence[AdapterSpec], scales: Mapping[str, float]) -> tuple[AdapterSpec, ...]:
    """The same, working so for requests that name none; not at all, those left out. Raises InvalidRequest."""
    try:
        made = tuple(replace(spec, default_scale=scales.get(spec.name, 0.0)) for spec in specs)
        check_together(made)
    except ManifestError as error:
        raise InvalidRequest(f"of adapters, {error}", param="scale") from error
    return made


@dataclass(slots=True)
class _Entry:
    """Owned by the loop."""

    spec: AdapterSpec
    id: int
    n_in_use: int = 0
    is_gone: bool = False


class AdapterTable:
    """Owned by the loop. The adapters of one replica; `free` lets go of one, by its id, when nobody uses it."""

    def __init__(self, model: str, free: Callable[[int], None]) -> None:
        self._model = model
        self._free = free
        self._entries: dict[str, _Entry] = {}
        self._by_id: dict[int, _Entry] = {}  # those too that are gone and still used
        self._default: Adapters = NO_ADAPTERS

    @property
    def specs(self) -> tuple[AdapterSpec, ...]:
        return tuple(entry.spec for entry in self._entries.values())

    def n_in_use(self, name: str) -> int:
        return self._entries[name].n_in_use if name in self._entries else 0

    def ids(self) -> tuple[tuple[AdapterSpec, int], ...]:
        """Those that are here, and what they are loaded under."""
        return tuple((entry.spec, entry.id) for entry in self._entries.values())

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def add(self, spec: AdapterSpec, id_: int) -> None:
        """Another one, which is loaded under that id. The caller has seen that its name is free."""
        self._entries[spec.name] = self._by_id[id_] = _Entry(spec, id_)
        self._settle()

    def remove(self, name: str) -> None:
        """The caller has seen that it is here."""
        entry = self._entries.pop(name)
        entry.is_gone = True
        self._settle()
        self._let_go(entry)

    def rescale(self, specs: Sequence[AdapterSpec]) -> None:
        """Work as these say, those that are here."""
        for spec in specs:
            if spec.name in self._entries:
                self._entries[spec.name].spec = spec
        self._settle()

    def of(self, uses: Sequence[AdapterUse]) -> Adapters:
        """What a request is to be computed with: those it lists, else the defaults. Raises InvalidRequest."""
        if not uses:
            return self._default
        scales: dict[int, float] = {}
        for use in uses:
            entry = self._entry(use.adapter)
            scale = entry.spec.scale if use.scale is None else use.scale
            _check_asked(scale)
            scales[entry.id] = float(scale)
        return self._together(scales)

    def held(self, adapters: Adapters) -> AbstractContextManager[None]:
        """In use for as long as this is open."""
        return self._held(adapters) if adapters else _NOTHING

    @contextmanager
    def _held(self, adapters: Adapters) -> Iterator[None]:
        entries = [self._by_id[id_] for id_, _ in adapters]
        for entry in entries:
            entry.n_in_use += 1
        try:
            yield
        finally:
            for entry in entries:
                entry.n_in_use -= 1
                self._let_go(entry)

    def _let_go(self, entry: _Entry) -> None:
        if entry.is_gone and entry.n_in_use == 0 and entry.id in self._by_id:
            del self._by_id[entry.id]
            self._free(entry.id)

    def _entry(self, name: int | str) -> _Entry:
        found = self._entries.get(name) if isinstance(name, str) else None
        if found is None:
            raise InvalidRequest(f"`{self._model}` has no adapter {name!r:.80} here", param="lora")
        return found

    def _settle(self) -> None:
        self._default = self._together(
            {entry.id: entry.spec.default_scale for entry in self._entries.values()}, is_checked=False
        )

    def _together(self, scales: Mapping[int, float], *, is_checked: bool = True) -> Adapters:
        adapters = tuple(sorted((id_, scale) for id_, scale in scales.items() if scale != 0.0))
        if is_checked:
            self._check_together(len(adapters))
        return adapters

    def _check_together(self, n: int) -> None:
        if n > MAX_TOGETHER:
            raise InvalidRequest(f"at most {MAX_TOGETHER} adapters work together, not {n}", param="lora")


_NOTHING = nullcontext()


def _check_asked(scale: float) -> None:
    try:
        check_scale(scale, "scale")
    except ManifestError as error:
        raise InvalidRequest(f"of an adapter, {error}", param="lora") from error


def adapter_named(name: str, specs: Mapping[str, Sequence[AdapterSpec]]) -> tuple[str, str] | None:
    """The model and the adapter that a request's model names, as `model:adapter` or by the adapter's name alone.

    `specs` are of each name that a model has. None where it names neither.
    """
    model, colon, adapter = name.rpartition(":")
    if colon and any(spec.name == adapter for spec in specs.get(model, ())):
        return model, adapter
    owners = {id(each): owner for owner, each in specs.items() if any(spec.name == name for spec in each)}
    return (next(iter(owners.values())), name) if len(owners) == 1 else None
