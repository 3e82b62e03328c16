"""llamahost: serve GGUF models from the machine you own, by HTTP or as a library.

from llamahost import Host

with Host("model.gguf") as host:
    print(host.chat("Why is the sky blue?").text)

`Host` is for programs without asyncio, `AsyncHost` for those with it; `create_app` makes the HTTP application of one.
Whatever goes wrong is a `LlamahostError`. What may be said of an answer is in `ChatRequest`, `Generation` and
`SamplingOptions`, of a model in `ModelSpec`. What comes is a `ChatResult`, or one `Delta` after the other.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llamahost.api.app import create_app as create_app
    from llamahost.core.errors import ContextTooLong as ContextTooLong
    from llamahost.core.errors import DeadlineExceeded as DeadlineExceeded
    from llamahost.core.errors import GenerationFailed as GenerationFailed
    from llamahost.core.errors import InvalidRequest as InvalidRequest
    from llamahost.core.errors import LlamahostError as LlamahostError
    from llamahost.core.errors import LoadFailed as LoadFailed
    from llamahost.core.errors import ManifestError as ManifestError
    from llamahost.core.errors import ModelNotFound as ModelNotFound
    from llamahost.core.errors import NoMemory as NoMemory
    from llamahost.core.errors import NotAble as NotAble
    from llamahost.core.errors import NotRead as NotRead
    from llamahost.core.errors import NotThere as NotThere
    from llamahost.core.errors import OutOfReach as OutOfReach
    from llamahost.core.errors import Overloaded as Overloaded
    from llamahost.core.errors import TemplateFailed as TemplateFailed
    from llamahost.core.errors import Unavailable as Unavailable
    from llamahost.core.events import Delta as Delta
    from llamahost.core.events import Echoed as Echoed
    from llamahost.core.events import Event as Event
    from llamahost.core.events import Finished as Finished
    from llamahost.core.events import Likely as Likely
    from llamahost.core.events import Measured as Measured
    from llamahost.core.events import Progress as Progress
    from llamahost.core.events import PromptLogprob as PromptLogprob
    from llamahost.core.events import Started as Started
    from llamahost.core.events import Timings as Timings
    from llamahost.core.events import TokenLogprob as TokenLogprob
    from llamahost.core.events import Usage as Usage
    from llamahost.core.messages import Audio as Audio
    from llamahost.core.messages import ChatRequest as ChatRequest
    from llamahost.core.messages import CompletionRequest as CompletionRequest
    from llamahost.core.messages import Generation as Generation
    from llamahost.core.messages import Image as Image
    from llamahost.core.messages import Message as Message
    from llamahost.core.messages import Output as Output
    from llamahost.core.messages import Text as Text
    from llamahost.core.messages import Tool as Tool
    from llamahost.core.messages import ToolCall as ToolCall
    from llamahost.core.observe import Observer as Observer
    from llamahost.core.observe import RequestRecord as RequestRecord
    from llamahost.core.results import ChatResult as ChatResult
    from llamahost.core.results import CompletionResult as CompletionResult
    from llamahost.core.sampling import Sampling as Sampling
    from llamahost.core.sampling import SamplingOptions as SamplingOptions
    from llamahost.core.vectors import Embeddings as Embeddings
    from llamahost.core.vectors import EmbedRequest as EmbedRequest
    from llamahost.core.vectors import Ranking as Ranking
    from llamahost.core.vectors import RerankRequest as RerankRequest
    from llamahost.fleet.settings.adapter_spec import AdapterSpec as AdapterSpec
    from llamahost.fleet.settings.manifest import Manifest as Manifest
    from llamahost.fleet.settings.manifest import ModelSpec as ModelSpec
    from llamahost.fleet.settings.manifest import ServerSettings as ServerSettings
    from llamahost.fleet.settings.manifest_file import load_manifest as load_manifest
    from llamahost.host import AsyncHost as AsyncHost
    from llamahost.host import Health as Health
    from llamahost.host import ModelStatus as ModelStatus
    from llamahost.sync import Host as Host
    from llamahost.sync import Stream as Stream

logging.getLogger(__name__).addHandler(logging.NullHandler())  # a program that wants no log is told none

__version__ = "0.1.0"

_HOMES = {
    "llamahost.api.app": ("create_app",),
    "llamahost.core.errors": (
        "ContextTooLong", "DeadlineExceeded", "GenerationFailed", "InvalidRequest", "LlamahostError", "LoadFailed",
        "ManifestError", "ModelNotFound", "NoMemory", "NotAble", "NotRead", "NotThere", "OutOfReach", "Overloaded",
        "TemplateFailed", "Unavailable",
    ),
    "llamahost.core.events": (
        "Delta", "Echoed", "Event", "Finished", "Likely", "Measured", "Progress", "PromptLogprob", "Started",
        "Timings", "TokenLogprob", "Usage",
    ),
    "llamahost.core.messages": (
        "Audio", "ChatRequest", "CompletionRequest", "Generation", "Image", "Message", "Output", "Text", "Tool",
        "ToolCall",
    ),
    "llamahost.core.observe": ("Observer", "RequestRecord"),
    "llamahost.core.results": ("ChatResult", "CompletionResult"),
    "llamahost.core.sampling": ("Sampling", "SamplingOptions"),
    "llamahost.core.vectors": ("EmbedRequest", "Embeddings", "Ranking", "RerankRequest"),
    "llamahost.fleet.settings.adapter_spec": ("AdapterSpec",),
    "llamahost.fleet.settings.manifest": ("Manifest", "ModelSpec", "ServerSettings"),
    "llamahost.fleet.settings.manifest_file": ("load_manifest",),
    "llamahost.host": ("AsyncHost", "Health", "ModelStatus"),
    "llamahost.sync": ("Host", "Stream"),
}  # fmt: skip
"""Where each public name lives. They are imported when first asked for, so that `llamahost --help` is quick."""

_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *_HOME_OF]


def __getattr__(name: str) -> object:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module `llamahost` has no `{name}`")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
