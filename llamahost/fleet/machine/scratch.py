"""What ggml's scratch pools on a card come to take, beyond what is kept free for all of them. Pure; no log tells of it.

A pool grows when a step first needs it, and where there is no memory then, the process ends: so it is counted before.
"""

from __future__ import annotations

_F32, _F16, _BF16 = 0, 1, 30  # of ggml_type
_PASCAL, _PASCAL_DP4A, _VOLTA, _TURING, _AMPERE = (6, 0), (6, 1), (7, 0), (7, 5), (8, 0)


def of_scores(n_kv: int, n_head: int, n_ubatch: int) -> int:
    """Without flash attention: all scores of a micro-batch again, in 16 bits, while they are multiplied with V. As much
    as the longest prompt needs, long after the warm-up.
    """
    return 2 * n_ubatch * -(-n_kv // 256) * 256 * n_head


def of_matrix(n_elements: int, kind: int, compute: tuple[int, int] | None) -> int:
    """The largest matrix, which is the output's, written out in another type where cuBLAS is to multiply it: on cards
    of a compute capability for which ggml has no kernel of its own for the type, or a slower one where rows are many.
    """
    if compute is None or kind == _F32:
        return 0
    has_fast_f16 = compute >= _PASCAL and compute != _PASCAL_DP4A
    if kind == _F16:
        return 0 if has_fast_f16 else 4 * n_elements
    if kind == _BF16:
        return 0 if compute >= _AMPERE else 4 * n_elements
    if compute >= _TURING or compute == _PASCAL_DP4A:
        return 0
    return (2 if has_fast_f16 else 4) * n_elements
