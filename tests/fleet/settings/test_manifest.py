"""Laws of the manifest: what it says is what is served, and a mistake is found with its line and the key meant."""

import re
import tomllib
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamahost.core.errors import ManifestError
from llamahost.fleet.settings.adapter_spec import AdapterSpec
from llamahost.fleet.settings.manifest import Manifest, ModelSpec, ServerSettings
from llamahost.fleet.settings.manifest_file import _apart, load_manifest, parse_manifest
from llamahost.fleet.settings.route_spec import RouteSpec
from tests.sources import ROOT

FOLDER = Path("/models")
MODEL = '[[models]]\nname = "a"\npath = "a.gguf"\n'
OTHER = '[[models]]\nname = "b"\npath = "b.gguf"\n'


def parse(text: str) -> Manifest:
    return parse_manifest(text, folder=FOLDER)


def test_an_empty_manifest_serves_nothing_with_the_default_settings() -> None:
    assert parse("") == Manifest(models=(), server=ServerSettings())


def test_everything_said_is_taken() -> None:
    manifest = parse(
        """
        [server]
        port = 0
        api_key = "k"
        drain_s = 5
        [[models]]
        name = "a"
        path = "sub/a.gguf"
        aliases = ["b", "c"]
        n_ctx = 4096
        kv_layout = "unified"
        n_cells = 8192
        template = "chat.jinja"
        [models.sampling]
        temperature = 0
        dry_sequence_breakers = ["\\n"]
        logit_bias = [[5, -1.5]]
        [[models]]
        name = "d"
        path = "/elsewhere/d.gguf"
        template = "{{ messages }}"
        """
    )
    assert manifest.server == ServerSettings(port=0, api_key="k", drain_s=5)
    first, second = manifest.models
    assert first == ModelSpec(
        name="a",
        path=FOLDER / "sub/a.gguf",
        aliases=("b", "c"),
        n_ctx=4096,
        kv_layout="unified",
        n_cells=8192,
        template=str(FOLDER / "chat.jinja"),
        sampling={"temperature": 0, "dry_sequence_breakers": ("\n",), "logit_bias": ((5, -1.5),)},
    )
    assert second.path == Path("/elsewhere/d.gguf")
    assert second.template == "{{ messages }}"


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("[server]\nprot = 1\n", 2, "unknown key `prot`; did you mean `port`?"),
        ("[sevrer]\n", 1, "did you mean `server`?"),
        (MODEL + "\nslots = 4\n", 5, "did you mean `n_slots`?"),
        (MODEL + "gpu_layers = 4\n", 4, "did you mean `n_gpu_layers`?"),
        (MODEL + "zzz = 4\n", 4, "the keys here are"),
        (MODEL + "ctx-size = 4\n", 4, "did you mean `n_ctx`?"),
        ("[server]\nssl_cert_file = 'a'\n", 2, "did you mean `tls_cert`?"),
        (MODEL + "n_ctx = '4096'\n", 4, "n_ctx must be a whole number"),
        (MODEL + "n_ctx = 4096.0\n", 4, "n_ctx must be a whole number"),
        (MODEL + "n_ctx = true\n", 4, "n_ctx must be a whole number"),
        (MODEL + "n_slots = 300\n", 4, "n_slots must be between 1 and 256"),
        (MODEL + "n_threads = 18446744073709551617\n", 4, "n_threads must be between"),
        (MODEL + "timeout_s = nan\n", 4, "timeout_s must be between"),
        (MODEL + "kv_layout = 'spilt'\n", 4, "one of auto, split, unified"),
        (MODEL + "kv_layout = 'split'\nn_cells = 8192\n", 5, "n_cells belongs to a unified KV"),
        (MODEL + "n_ctx = 512\nn_cells = 256\n", 5, "at least n_ctx"),
        (MODEL + "flash_attention = 'off'\nkv_type_v = 'q8_0'\n", 5, "needs flash attention"),
        (MODEL + "aliases = 'b'\n", 4, "aliases must be a list"),
        (MODEL + "aliases = [1]\n", 4, "1 to 256 characters"),
        (MODEL + "[models.sampling]\ntemprature = 1\n", 5, "did you mean `temperature`?"),
        (MODEL + "[models.sampling]\n\ntemperature = -1\n", 6, "temperature must be between"),
        (MODEL + "[models.sampling]\ntemperature = 'hot'\n", 5, "temperature must be a number, not 'hot'"),
        (MODEL + "[models.sampling]\ntop_k = 1.5\n", 5, "top_k must be a whole number, not 1.5"),
        (MODEL + "[models.sampling]\nmin_keep = true\n", 5, "min_keep must be a whole number"),
        (MODEL + "[models.sampling]\nseed = 1.5\n", 5, "seed must be between"),
        (MODEL + "[models.sampling]\nlogit_bias = [[1]]\n", 5, "pairs of a token and a bias"),
        (MODEL + "[models.sampling]\nlogit_bias = [1]\n", 5, "pairs of a token and a bias"),
        (MODEL + "[models.sampling]\nlogit_bias = [[1.5, 1]]\n", 5, "pairs of a token and a bias"),
        (MODEL + "[models.sampling]\ndry_sequence_breakers = [1]\n", 5, "must be texts"),
        (MODEL + "max_sampling = { temprature = 1 }\n", 4, "did you mean `temperature`?"),
        (MODEL + "max_sampling = { temperature = -1 }\n", 4, "temperature must be between"),
        (MODEL + "load = 'never'\n", 4, "one of start, request, hand"),
        (MODEL + "replicas = 0\n", 4, 'replicas must be between 1 and 64, or "per-gpu"'),
        (MODEL + "replicas = 'per-cpu'\n", 4, 'replicas must be between 1 and 64, or "per-gpu"'),
        (MODEL + "devices = 'CUDA0'\n", 4, 'devices must be "auto" or a list'),
        (MODEL + "devices = ['CUDA0', 'CUDA0']\n", 4, "different ones"),
        (MODEL + "devices = ['CUDA0']\ntensor_split = [1, 1]\n", 5, "2 shares of 1 devices"),
        (MODEL + "devices = ['CUDA0']\nmain_device = 1\n", 5, "main_device must be below 1"),
        (MODEL + "tensor_split = [0, 0]\n", 4, "not all 0"),
        (MODEL + "tensor_split = ['1']\n", 4, "numbers between 0 and 1e6"),
        (MODEL + "split_mode = 'none'\ntensor_split = [1]\n", 5, "shares nothing"),
        (MODEL + "override_tensor = ['exps']\n", 4, 'like "ffn_.*_exps=CPU"'),
        (MODEL + "override_tensor = ['(=CPU']\n", 4, 'like "ffn_.*_exps=CPU"'),
        (MODEL + "repo = 'a/b'\n", 4, "a path or a repo"),
        (MODEL + "quant = 'Q4_K_M'\n", 4, "quant belongs to a repo"),
        ("[[models]]\nname = 'x'\nrepo = 'http://a/b'\n", 3, 'like "owner/name"'),
        ("[[models]]\nname = 'x'\nrepo = 'a/b'\nfile = 'f'\nquant = 'q'\n", 5, "not both"),
        ("[[folders]]\npath = 'nowhere'\n", 2, "there is no folder"),
        (f"[[folders]]\npath = '/{'n' * 300}'\n", 2, "cannot read the folder"),
        ("[[folders]]\nname = 'a'\npath = 'nowhere'\n", 2, "belongs to one model"),
        ("[server]\nmemory_fraction = 0\n", 2, "memory_fraction must be between"),
        ("[server]\nreserved_bytes = { CUDA0 = -1 }\n", 2, "reserved_bytes must be between"),
        ("[server]\nreserved_bytes = { CUDA0 = '1' }\n", 2, "reserved_bytes must be a whole number"),
        (MODEL + OTHER + "n_cxt = 1\n", 7, "did you mean `n_ctx`?"),
        (MODEL + OTHER + MODEL, 8, "`a` names two things"),
        (MODEL + OTHER + "aliases = ['a']\n", 5, "`a` names both"),
        ("\n[[models]]\npath = 'x'\n", 2, "needs a name"),
        ("[[models]]\nname = 'x'\n", 1, "needs a path, or a repo"),
        ("[[models]]\nname = 'x'\npath = 3\n", 3, "path must be text"),
        ("[models]\nname = 'x'\n", 1, "[[models]], with two brackets"),
        ("[[models]]\nname = 'x'\npath = '~nobody-here/x'\n", 3, "no home folder ~nobody-here for ~nobody-here/x"),
        ('[[folders]]\npath = "a\\u0000"\n', 2, "no file has a NUL in its name"),
        ("[server]\nport = 65536\n", 2, "port must be between 0 and 65535"),
        ("[server]\napi_key = ''\n", 2, "api_key must not be empty"),
        ("[server]\nhost = \n", 2, "line 2"),
        ("server = 3\n", 1, "server must be a table"),
    ],
)
def test_a_mistake_is_told_with_its_line(text: str, line: int, says: str) -> None:
    with pytest.raises(ManifestError) as caught:
        parse(text)
    assert f"line {line}" in str(caught.value)
    assert says in str(caught.value)
    assert str(caught.value).startswith("model_manifest.toml")


ROUTE = """[[models]]
name = "big"
aliases = ["huge"]
path = "a.gguf"
[[models]]
name = "small"
path = "b.gguf"
[[routes]]
name = "chat"
models = ["big", "small"]
"""


def test_a_route_stands_for_models() -> None:
    (route,) = parse(f"{ROUTE}strategy = 'split'\nweights = [9, 1]\naliases = ['gpt-*']").routes
    assert route == RouteSpec(
        name="chat", models=("big", "small"), strategy="split", weights=(9, 1), aliases=("gpt-*",)
    )


@pytest.mark.parametrize(
    ("more", "line", "says"),
    [
        ("strategy = 'fastest'", 11, "must be one of"),
        ("weights = [1, 2]", 11, "belong to strategy"),
        ("strategy = 'split'\nweights = [1]", 12, "2 numbers"),
        ("strategy = 'split'\nweights = [0, 0]", 12, "not all 0"),
        ("strategy = 'split'\nweights = 0", 12, "2 numbers"),
        ("stratgy = 'split'", 11, "did you mean `strategy`"),
        ("aliases = ['big']", 9, "names both `big` and `chat`"),
        ("[[routes]]\nname = 'other'\nmodels = ['bigg']", 13, "did you mean `big`"),
        ("[[routes]]\nname = 'other'\nmodels = ['nobody']", 13, "which is no model"),
        ("[[routes]]\nname = 'other'\nmodels = ['chat']", 13, "`chat`, which is a route, and no model"),
        ("[[routes]]\nname = 'other'\nmodels = ['other']", 13, "`other`, which is a route, and no model"),
        ("[[routes]]\nname = 'other'\nmodels = ['huge']", 13, "which is an alias of `big`; name that"),
        ("[[routes]]\nname = 'other'\nmodels = []", 13, "1 to 64"),
        ("[[routes]]\nname = 'other'", 11, "needs models"),
    ],
)
def test_a_mistake_in_a_route_is_told_with_its_line(more: str, line: int, says: str) -> None:
    with pytest.raises(ManifestError, match=says) as caught:
        parse(f"{ROUTE}{more}")
    assert f"line {line}:" in str(caught.value)


def test_every_mistake_is_told_in_the_order_of_their_lines() -> None:
    text = """[server]
prot = 1
drain_s = "x"
tls_cert = 3
tls_key = "k"
[[models]]
name = "a"
path = "a.gguf"
n_ctx = 1
kv_layuot = "x"
[models.sampling]
temprature = 1
[[models]]
name = "b"
[[models]]
name = "c"
path = "c.gguf"
[[models]]
name = "c"
path = "d.gguf"
[[folders]]
path = "nowhere"
[[routes]]
name = "r"
models = ["a"]
stratgy = "split"
"""
    with pytest.raises(ManifestError) as caught:
        parse(text)
    told = str(caught.value).splitlines()
    assert [int(re.findall(r"line (\d+):", line)[0]) for line in told] == [2, 3, 4, 9, 10, 12, 13, 19, 22, 26]
    assert (caught.value.key, caught.value.line) == ("prot", 2)
    with pytest.raises(ManifestError) as caught:
        parse("".join(f'[[models]]\nname = "{k}"\n' for k in range(30)))
    assert str(caught.value).splitlines()[20:] == ["and 10 more"]


TABLES = [
    ("[[models]]", {"name": "'x'", "path": "'x'"}, ModelSpec),
    ("[server]", {}, ServerSettings),
    (MODEL + "[[routes]]", {"name": "'x'", "models": "['a']", "strategy": "'split'"}, RouteSpec),
    (MODEL + "[[models.adapters]]", {"name": "'x'", "path": "'x'"}, AdapterSpec),
]


@pytest.mark.parametrize(
    "value", ["0", "false", "nan", "1979-05-27", r'"a\u0000"', "'~nobody-here/x'", "[0]", "{a = [0]}"]
)
def test_no_value_of_any_key_is_more_than_a_mistake(value: str) -> None:
    n_mistakes = 0
    for header, needed, form in TABLES:
        for key in (field.name for field in fields(form)):
            lines = [f"{name} = {said}" for name, said in {**needed, key: value}.items()]
            try:
                parse("\n".join([header, *lines]))
            except ManifestError:
                n_mistakes += 1
    assert n_mistakes > 30


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"nothing\.toml"):
        load_manifest(tmp_path / "nothing.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff")
    with pytest.raises(ManifestError, match="not UTF-8"):
        load_manifest(tmp_path / "bytes.toml")


def test_paths_begin_at_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text(MODEL)
    assert load_manifest(tmp_path / "m.toml").models[0].path == tmp_path / "a.gguf"


def test_a_folder_is_a_model_for_each_file_that_is_not_named_by_itself(tmp_path: Path) -> None:
    for name in ("a", "sub/b", "big-00001-of-00002", "big-00002-of-00002", "mmproj-b"):
        (tmp_path / "sub").mkdir(exist_ok=True)
        (tmp_path / f"{name}.gguf").touch()
    (tmp_path / "m.toml").write_text(MODEL + "n_ctx = 64\n[[folders]]\npath = '.'\nidle_s = 60\n")
    found = {spec.name: spec for spec in load_manifest(tmp_path / "m.toml").models}
    assert found.keys() == {"a", "b", "big"}
    assert (found["a"].n_ctx, found["a"].load, found["a"].idle_s) == (64, "start", None)
    assert (found["b"].path, found["b"].load, found["b"].idle_s) == (tmp_path / "sub/b.gguf", "request", 60)


def test_every_model_of_a_folder_is_found_once_and_has_a_name_of_its_own(tmp_path: Path) -> None:
    for name in (
        "x/a.gguf",
        "x/sub/a.gguf",
        "x/B.GGUF",
        "x/.b.gguf",
        "x/.hidden/c.gguf",
        "x/d.gguf/e.gguf",
        "far/f.gguf",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "x/sub/link").symlink_to(tmp_path / "far")
    (tmp_path / "far/round").symlink_to(tmp_path / "x")  # and back
    (tmp_path / "m.toml").write_text(MODEL + "[[folders]]\npath = 'x'\n[[folders]]\npath = 'x/../x/sub'\n")
    found = {spec.name: spec.path.relative_to(tmp_path) for spec in load_manifest(tmp_path / "m.toml").models}
    assert {name: str(path) for name, path in found.items()} == {
        "a": "a.gguf",  # of the manifest itself
        "x/a": "x/a.gguf",
        "sub/a": "x/sub/a.gguf",
        "B": "x/B.GGUF",
        "e": "x/d.gguf/e.gguf",
        "f": "x/sub/link/f.gguf",
    }


@given(st.sets(st.sampled_from([f"{a}{b}{c}" for a in ("", "p/", "q/") for b in ("", "r/", "s/") for c in "mn"])))
def test_a_name_of_a_folder_is_of_one_file_whatever_else_lies_there(lying: set[str]) -> None:
    specs = [ModelSpec(name=path[-1], path=Path(f"/f/{path}.gguf")) for path in sorted(lying)]
    names = dict(zip(sorted(lying), _apart(specs, {"n"}, {}), strict=True))
    assert len(set(names.values())) == len(names)
    for path, name in names.items():
        assert f"/f/{path}".endswith(f"/{name}")
        alone = path[-1] != "n" and sum(each[-1] == path[-1] for each in lying) == 1
        assert (name == path[-1]) == alone, "a short name is of the only one, and never the manifest's own"
    back = dict(zip(sorted(lying, reverse=True), _apart(specs[::-1], {"n"}, {}), strict=True))
    assert back == names


@given(st.lists(st.sets(st.sampled_from(["m", "a/m", "b/m", "b/c/m", "n", "a/n"])), max_size=6))
def test_a_name_means_its_file_or_nothing_whatever_comes_and_goes(lying: list[set[str]]) -> None:
    """And who stays keeps its name, which clients have."""
    meant: dict[str, Path] = {}
    before: dict[Path, str] = {}
    for now in lying:
        specs = [ModelSpec(name=path[-1], path=Path(f"/f/{path}.gguf")) for path in sorted(now)]
        names = {spec.path: name for spec, name in zip(specs, _apart(specs, (), meant), strict=True)}
        assert len(set(names.values())) == len(names)
        assert all(meant.get(name, path) == path for path, name in names.items())
        assert all(names[path] == before[path] for path in names.keys() & before.keys())
        meant.update((name, path) for path, name in names.items())
        before |= names


def test_files_of_one_folder_that_have_one_name_are_told_by_their_endings() -> None:
    paths = ["/f/a.gguf", "/f/a.GGUF", "/f/a-00001-of-00002.gguf", "/g/a.gguf", "/g/b.gguf"]
    specs = [ModelSpec(name=Path(path).name[0], path=Path(path)) for path in paths]
    assert _apart(specs, (), {}) == ["a.gguf", "a.GGUF", "a-00001-of-00002.gguf", "a", "b"]


def test_a_model_of_a_repository_is_found_later() -> None:
    (spec,) = parse("[[models]]\nname = 'x'\nrepo = 'a/b'\nquant = 'Q4_K_M'\n").models
    assert not spec.is_resolved
    assert replace(spec, path=Path("/cache/x.gguf")).is_resolved


def test_the_manifest_that_ships_serves_nothing_and_sets_nothing() -> None:
    assert load_manifest(ROOT / "model_manifest.toml") == Manifest()


def test_the_manifest_that_ships_teaches_every_key_and_its_examples_are_right() -> None:
    text = (ROOT / "model_manifest.toml").read_text()
    for key in ("repo", "file", "quant", "revision"):  # shown beside a path, in whose place they stand
        assert f"\n# {key} = " in text
        text = text.replace(f"\n# {key} = ", f"\n# or {key} = ")
    text = re.sub(r"\n# \[\[folders\]\][^\[]*", "\n", text)
    examples = re.sub(r"^# ([a-z_]+ = .*|\[+[a-z._]+\]+( +#.*)?)$", r"\1", text, flags=re.MULTILINE)
    document = tomllib.loads(examples)
    assert document["server"].keys() == {f.name for f in fields(ServerSettings)}
    of_repo = {"repo", "file", "quant", "revision"}
    assert document["models"][0].keys() | of_repo == {f.name for f in fields(ModelSpec)}
    assert document["routes"][0].keys() == {f.name for f in fields(RouteSpec)}
    assert len(parse(examples).models) == 1


def test_a_spec_made_in_a_program_is_checked_alike() -> None:
    with pytest.raises(ManifestError) as caught:
        ModelSpec(name="a", path=Path("a"), n_ctx=0)
    assert caught.value.key == "n_ctx"
    assert ModelSpec(name="a", path="a.gguf").path == Path("a.gguf")  # type: ignore[arg-type]  # text is as good
