"""Tell whether this build's AMX code would end the process. Knows one compiler bug; needs a path and a line of text.

GCC before 11.5, 12.4 and 13.3 drops the stores that fill AMX's tile configuration (its bug 114098), so ggml's AMX
kernels fault on the first quantised matrix. A build made with `-march=native` on a machine that has AMX runs into it.
"""

from __future__ import annotations

import re
from pathlib import Path

_GCC = re.compile(rb"GCC: \([^)]*\) (\d+)\.(\d+)")
_MENDED_IN = {11: 5, 12: 4, 13: 3}


def compiler_is_broken(library: bytes) -> bool:
    """Whether the .comment section of a shared library names a GCC with the bug."""
    versions = ((int(major), int(minor)) for major, minor in _GCC.findall(library))
    return any(major < 11 or minor < _MENDED_IN.get(major, 0) for major, minor in versions)


def amx_is_broken(system_info: str, cpu_library: Path) -> bool:
    """Whether ggml will use AMX (it says so itself) as compiled by a GCC that gets it wrong."""
    if not re.search(r"AMX_INT8 = 1", system_info):
        return False
    try:
        return compiler_is_broken(cpu_library.read_bytes())
    except OSError:
        return True  # not where it is known to be: rather slower than dead
