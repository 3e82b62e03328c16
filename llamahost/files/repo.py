"""Which files of a repository are meant: what users write, how GGUF files are named, which quantisation is taken.

Pure: knows names and sizes; asks no hub and looks at no disk.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from urllib.parse import unquote

from llamahost.core.errors import InvalidRequest, PullFailed
from llamahost.core.sizes import bytes_told

DEFAULT_QUANT = "Q4_K_M"
MAIN = "main"

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_REPO = re.compile(rf"{_PART}/{_PART}")
_HOSTS = re.compile(r"^(?:(?:https?:/{1,2})?(?:www\.)?(?:huggingface\.co|hf\.co)/|hf://(?:models/)?)", re.IGNORECASE)
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,254}")
_QUANT = re.compile(
    r"(?<![A-Za-z0-9])(?:UD-)?(?:[IT]?Q[1-9](?:_[A-Z0-9]{1,3})*|BF16|FP?16|FP?32|MXFP4(?:_MOE)?|NVFP4)(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_SHARD = re.compile(r"(?P<prefix>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)
_BESIDE = re.compile(r"mmproj|imatrix|(?:^|[-_.])(?:mtp|eagle3|dflash|dspark)-", re.IGNORECASE)
"""Files that stand beside a model and are none: projectors, what quantisers measured, drafters."""

_NEAREST = (
    "Q4_K_M", "Q4_K_XL", "Q4_K_L", "Q4_K", "Q4_K_S", "MXFP4", "IQ4_XS", "IQ4_NL", "Q4_0", "Q4_1", "Q5_K_M", "Q5_K_S",
    "Q5_K", "Q5_K_XL", "Q5_K_L", "Q5_0", "Q5_1", "Q6_K", "Q6_K_L", "Q6_K_XL", "Q8_0", "Q8_K_XL", "Q3_K_L", "Q3_K_M",
    "Q3_K_XL", "Q3_K", "IQ3_M", "Q3_K_S", "IQ3_S", "IQ3_XS", "IQ3_XXS", "Q2_K_L", "Q2_K", "IQ2_M",
)  # fmt: skip
"""By how near each is to the default: about as many bits, then more, then fewer, since fewer are worse."""

_MAX_SHARDS = 1000


@dataclass(frozen=True, slots=True)
class Reference:
    """A model on the hub: a repository, and the file or quantisation wanted of it; neither: the default one."""

    repo: str
    quant: str = ""
    file: str = ""
    revision: str = MAIN

    def __str__(self) -> str:
        what = f"/{self.file}" if self.file else f":{self.quant}" if self.quant else ""
        return f"{self.repo}{what}" + ("" if self.revision == MAIN else f" at {self.revision}")


@dataclass(frozen=True, slots=True)
class RepoFile:
    """A file as a listing has it: with the sum of its bytes, or, where it lies in git itself, as git names it."""

    path: str
    size: int
    sha256: str = ""
    git_sha1: str = ""

    @property
    def digest(self) -> str:
        return self.sha256 or self.git_sha1


@dataclass(frozen=True, slots=True)
class Choice:
    """What is to be had: one file, or the shards of one in their order. `why` tells a choice that nobody asked for."""

    files: tuple[RepoFile, ...]
    quant: str
    why: str = ""

    @property
    def n_bytes(self) -> int:
        return sum(file.size for file in self.files)


def looks_like_repo(text: str) -> bool:
    """Whether this can only be meant for the hub: an owner, a slash, a name; or an address there."""
    try:
        parse_reference(text)
    except InvalidRequest:
        return False
    return True


def parse_reference(text: str, *, revision: str = "") -> Reference:
    """`REPO`, `REPO:QUANT`, `REPO/FILE`, or the address of either as the hub's pages have it. Raises InvalidRequest."""
    bare = _HOSTS.sub("", text.strip()).split("?")[0].rstrip("/")
    body, _, quant = bare.partition(":")
    owner, _, rest = unquote(body).partition("/")
    name, _, file = rest.partition("/")
    found = Reference(f"{owner}/{name}", quant=quant, file=file, revision=revision or MAIN)
    if match := re.fullmatch(r"(?:blob|resolve|tree)/([^/]+)(?:/(.*))?", file):
        found = replace(found, file=match[2] or "", revision=revision or match[1])
    return checked(found, text)


def checked(found: Reference, text: str = "") -> Reference:
    """The reference, each part of it what it claims to be; `text` is what a user wrote. Raises InvalidRequest."""
    text = text or str(found)
    if not _REPO.fullmatch(found.repo) or "--" in found.repo or ".." in found.repo:
        raise InvalidRequest(
            f"{text!r:.200} names no repository of the hub; write OWNER/NAME, OWNER/NAME:Q4_K_M or "
            "OWNER/NAME/FILE.gguf",
            param="model",
        )
    if found.file and found.quant:
        raise InvalidRequest(f"{text!r:.200} names a file and a quantisation; one of them is enough", param="model")
    if found.file and (not is_plain(found.file) or not found.file.lower().endswith(".gguf")):
        raise InvalidRequest(f"{found.file!r:.200} is no GGUF file's name; it must end in .gguf", param="model")
    if found.quant and not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", found.quant):
        raise InvalidRequest(f"{found.quant!r:.100} is no quantisation; they are named like Q4_K_M", param="model")
    if not _REVISION.fullmatch(found.revision) or not is_plain(found.revision):
        raise InvalidRequest(f"{found.revision!r:.100} is no revision: a branch, tag or commit", param="revision")
    return replace(found, quant="" if found.quant.lower() == "latest" else found.quant)


def is_plain(path: str) -> bool:
    """Whether a path that somebody else wrote stays in the folder that it is put in, and on the line that tells it."""
    return path.isprintable() and "\\" not in path and not {"", ".", ".."} & set(path.split("/"))


def quant_of(path: str) -> str:
    """The quantisation that a file's name tells, else its folder's, in capitals; empty where none does."""
    whole = _SHARD.sub(lambda match: f"{match['prefix']}.gguf", path)
    for part in reversed(PurePosixPath(whole).parts):
        if found := _QUANT.findall(part.removesuffix(".gguf")):
            return str(found[-1]).upper()
    return ""


def is_model(path: str) -> bool:
    """Whether the name is that of a model, or of a model's first shard: of one that `shard_names` can name all of."""
    name = path.rpartition("/")[2]
    shard = _SHARD.fullmatch(name)
    is_first = shard is None or (int(shard["index"]) == 1 and 1 <= int(shard["count"]) <= _MAX_SHARDS)
    return name.lower().endswith(".gguf") and not _BESIDE.search(name) and is_first


def shard_names(path: str) -> tuple[str, ...]:
    """The names of all shards of the file of this name, which may be any of them; of a whole file its own."""
    match = _SHARD.fullmatch(path)
    if match is None:
        return (path,)
    count = int(match["count"])
    if not 1 <= count <= _MAX_SHARDS:
        raise PullFailed(f"{path} claims to be one of {count} files")
    return tuple(f"{match['prefix']}-{k:05d}-of-{count:05d}.gguf" for k in range(1, count + 1))


def choose(reference: Reference, files: Iterable[RepoFile]) -> Choice:
    """The files that are meant, of those that there are. Raises PullFailed, naming what there is."""
    known = {file.path: file for file in files if file.path.lower().endswith(".gguf") and is_plain(file.path)}
    models = sorted((path for path in known if is_model(path)), key=lambda path: (path.count("/"), len(path), path))
    if reference.file:
        return _named(reference, known, models)
    if not models:
        raise PullFailed(
            f"{reference.repo} holds no GGUF model; such repositories mostly end in -GGUF", is_unknown=True
        )
    quants = {path: quant_of(path) for path in models}
    wanted = reference.quant.upper()
    if wanted:
        path = next((path for path in models if quants[path] in (wanted, f"UD-{wanted}")), None)
        path = next((path for path in models if quants[path] == wanted), path)
        if path is None:
            raise PullFailed(f"{reference.repo} has no {reference.quant}; {_there_is(known, models)}", is_unknown=True)
        return Choice(_shards(known, path), quants[path])
    path = min(models, key=lambda path: _distance(quants[path]))
    is_default = quants[path] == DEFAULT_QUANT
    why = "" if is_default or len(models) == 1 else f"it has no {DEFAULT_QUANT}, and {quants[path] or path} is nearest"
    return Choice(_shards(known, path), quants[path], why)


def _named(reference: Reference, known: dict[str, RepoFile], models: Sequence[str]) -> Choice:
    path = reference.file
    if path not in known:
        same = [other for other in known if other.rpartition("/")[2].lower() == path.rpartition("/")[2].lower()]
        if len(same) != 1:
            raise PullFailed(f"{reference.repo} has no file {path}; {_there_is(known, models)}", is_unknown=True)
        path = same[0]
    return Choice(_shards(known, path), quant_of(path))


def _shards(known: dict[str, RepoFile], path: str) -> tuple[RepoFile, ...]:
    names = shard_names(path)
    if missing := [name for name in names if name not in known]:
        raise PullFailed(f"{path} is one of {len(names)} files, of which {missing[0]} is not there")
    return tuple(known[name] for name in names)


def _distance(quant: str) -> int:
    bare = quant.removeprefix("UD-")
    if bare in _NEAREST:
        return 2 * _NEAREST.index(bare) + (bare != quant)
    return 2 * len(_NEAREST) + (bare in ("F32", "FP32"))  # whole weights, or names that nobody knows: last


def _there_is(known: dict[str, RepoFile], models: Sequence[str]) -> str:
    sizes = {path: sum(known[name].size for name in shard_names(path) if name in known) for path in models}
    told = [f"{quant_of(path) or path} ({bytes_told(sizes[path])})" for path in sorted(models, key=lambda p: sizes[p])]
    more = f" and {len(told) - 30} more" if len(told) > 30 else ""
    return f"there is {', '.join(told[:30])}{more}" if told else "there is no GGUF in it"
