"""What is told of a prompt is the log-softmax of the logits that llama.cpp computes when it is asked directly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llamahost.sync import Host

LLAMA = ("tiny_llama", "tiny_swa", "tiny_recurrent", "tiny_hybrid")
TRAINED = ("stories260K.gguf", "tinytalk-3M-chat-q8_0.gguf")
STORY = "Once upon a time there was a girl named Lily. She had a cat who liked to sit on the big red mat. " * 2


def directly(path: Path, tokens: list[int], n_batch: int) -> tuple[list[float], list[int]]:
    """The logprob of each token but the first, and the likeliest in its place, by the plain class of the binding."""
    import llama_cpp

    llama = llama_cpp.Llama(
        str(path), n_ctx=256, n_batch=n_batch, logits_all=True, verbose=False, n_threads=1, n_threads_batch=1
    )
    llama.eval(tokens)
    logits = np.array(llama.scores[: len(tokens) - 1], dtype=np.float64)
    llama.close()
    logits -= logits.max(axis=1, keepdims=True)
    logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return [float(row[token]) for row, token in zip(logprobs, tokens[1:], strict=True)], logits.argmax(axis=1).tolist()


@pytest.mark.parametrize("layout", ["split", "unified"])
@pytest.mark.parametrize("name", [*LLAMA, *TRAINED])
def test_a_prompts_logprobs_are_those_of_its_raw_logits(name: str, layout: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(name) if name in LLAMA else request.getfixturevalue("shared_models") / name
    with Host(path, n_ctx=256, n_slots=3, kv_layout=layout, flash_attention="off", n_threads=1) as host:  # type: ignore[arg-type] # a parameter
        tokens = host.tokenize(STORY, add_special=True)[:150]
        # 64 at a time are more than one step and not a whole number of them; every prompt is asked for twice.
        told = [host.complete(tokens, n_prompt_logprobs=1, max_tokens=n).prompt_logprobs for n in (0, 1)]
    wanted, likeliest = directly(path, tokens, n_batch=256)
    for prompt in told:
        assert prompt[0].logprob is None
        assert [token.token for token in prompt] == tokens
        assert [token.logprob for token in prompt[1:]] == pytest.approx(wanted, abs=1e-3)
        for token, best, logprob in zip(prompt[1:], likeliest, wanted, strict=True):
            assert token.top[0].token == best or token.top[0].logprob == pytest.approx(logprob, abs=1e-3)
