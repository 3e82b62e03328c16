"""Laws of names: what users write for a model on the hub, and what the names of its files tell."""

from __future__ import annotations

import pytest

from llamahost.core.errors import InvalidRequest, PullFailed
from llamahost.files.repo import (
    Reference,
    RepoFile,
    checked,
    choose,
    is_model,
    is_plain,
    looks_like_repo,
    parse_reference,
    quant_of,
    shard_names,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/b", Reference("a/b")),
        ("a/b-GGUF:q4_0", Reference("a/b-GGUF", quant="q4_0")),
        ("a/b:latest", Reference("a/b")),
        ("a/b/sub/c.gguf", Reference("a/b", file="sub/c.gguf")),
        ("hf.co/a/b:Q8_0", Reference("a/b", quant="Q8_0")),
        ("https://huggingface.co/a/b/", Reference("a/b")),
        ("https:/huggingface.co/a/b", Reference("a/b")),  # as a path keeps it
        ("https://huggingface.co/a/b/blob/v1/c%20d.gguf?x=1", Reference("a/b", file="c d.gguf", revision="v1")),
        ("https://huggingface.co/a/b/tree/main", Reference("a/b")),
        ("hf://a/b/c.gguf", Reference("a/b", file="c.gguf")),
    ],
)
def test_a_model_is_named_as_its_users_do(text: str, expected: Reference) -> None:
    assert parse_reference(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "a/",
        "/a/b",
        "../b",
        "a/..",
        "a/b--c",
        "a/b:x/y",
        "a/b/c.bin",
        "a/b/../c.gguf",
        "a b/c",
        "./m.gguf",
        "llama3.2:3b",
    ],
)
def test_what_names_no_repository_is_told_so(text: str) -> None:
    assert not looks_like_repo(text)
    with pytest.raises(InvalidRequest):
        parse_reference(text)


@pytest.mark.parametrize(
    ("path", "quant"),
    [
        ("Qwen3-8B-Q4_K_M.gguf", "Q4_K_M"),
        ("llama-2-7b.q4_k_s.gguf", "Q4_K_S"),
        ("model_IQ2_XXS.gguf", "IQ2_XXS"),
        ("m-UD-Q4_K_XL-00001-of-00002.gguf", "UD-Q4_K_XL"),
        ("BF16/m-00002-of-00003.gguf", "BF16"),
        ("Q8_0/m.gguf", "Q8_0"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("m-TQ1_0.gguf", "TQ1_0"),
        ("Q3-model-f16.gguf", "F16"),
        ("ggml-model-q4_0_4_4.gguf", "Q4_0_4_4"),
        ("plain.gguf", ""),
    ],
)
def test_a_name_tells_its_quantisation(path: str, quant: str) -> None:
    assert quant_of(path) == quant


def test_parts_that_are_given_apart_are_held_to_the_same() -> None:
    assert (
        checked(Reference("a/b", file="tree/v1/c.gguf")).file == "tree/v1/c.gguf"
    )  # no address: a folder of that name
    for wrong in (Reference("a/../b"), Reference("a/b", file="../c.gguf"), Reference("a/b", revision="../v")):
        with pytest.raises(InvalidRequest):
            checked(wrong)


def test_a_path_of_somebody_else_is_plain_or_no_path() -> None:
    assert is_plain("a/b c.gguf")
    for path in ("", "/a", "a/", "a//b", "../a", "a/../b", "a/.", "a\\b", "a\0", "a\n", "a\x1b[2J"):
        assert not is_plain(path)


def test_what_stands_beside_a_model_is_none() -> None:
    names = [
        "m.gguf",
        "mmproj-m-f16.gguf",
        "m.imatrix.gguf",
        "mtp-m.gguf",
        "m-00002-of-00002.gguf",
        "m-00001-of-99999.gguf",  # of more than anybody names one after the other
        "m-00001-of-00000.gguf",
        "m.bin",
        "xmtp.gguf",
    ]
    assert [name for name in names if is_model(name)] == ["m.gguf", "xmtp.gguf"]


def test_shards_are_named_in_their_order_and_bounded() -> None:
    assert shard_names("a/m-00002-of-00003.gguf") == tuple(f"a/m-0000{k}-of-00003.gguf" for k in (1, 2, 3))
    with pytest.raises(PullFailed, match="claims to be one of 99999"):
        shard_names("m-00001-of-99999.gguf")


@pytest.mark.parametrize(
    ("there", "wanted", "expected"),
    [
        (["m-Q8_0", "m-Q4_K_M", "m-Q2_K"], "", "Q4_K_M"),
        (["m-Q8_0", "m-Q5_K_M", "m-Q2_K"], "", "Q5_K_M"),
        (["m-F16", "m-Q2_K"], "", "Q2_K"),
        (["m-UD-Q4_K_XL", "m-Q3_K_M"], "", "UD-Q4_K_XL"),
        (["m-UD-Q4_K_XL"], "q4_k_xl", "UD-Q4_K_XL"),
        (["m-UD-Q4_K_M", "m-Q4_K_M"], "Q4_K_M", "Q4_K_M"),
        (["m"], "", ""),
    ],
)
def test_the_default_is_taken_or_what_is_nearest(there: list[str], wanted: str, expected: str) -> None:
    files = [RepoFile(f"{name}.gguf", 1) for name in there]
    assert choose(Reference("a/b", quant=wanted), files).quant == expected


def test_a_model_that_lacks_a_shard_is_not_chosen() -> None:
    with pytest.raises(PullFailed, match=r"one of 2 files, of which m-00002-of-00002.gguf is not there"):
        choose(Reference("a/b"), [RepoFile("m-00001-of-00002.gguf", 1)])
