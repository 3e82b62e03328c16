"""LoRA adapters over HTTP: llama-server's /lora-adapters, and vLLM's routes that load and unload one.

To load a file by its path is the right of whoever owns the machine: it is off, but for files in the folders that the
manifest's `adapter_folders` names, wherever a link in them may lead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs

import msgspec
from starlette.types import Receive, Scope, Send

from llamahost.api.body import MAX_ORDER_BYTES, decode_body, read_body
from llamahost.api.cors import refuse_strange_pages
from llamahost.api.openai_answers import Answer
from llamahost.api.openai_generation import adapter_of
from llamahost.api.openai_types import LoraScale, Name
from llamahost.api.problems import Forbidden
from llamahost.api.service import Service, model_named
from llamahost.api.sse import send_json
from llamahost.core.errors import InvalidRequest, NotThere
from llamahost.fleet.replica.adapters import AdapterStatus
from llamahost.fleet.settings.manifest import ServerSettings
from llamahost.host import ModelStatus


class LoadAdapterBody(msgspec.Struct, kw_only=True):
    """POST /v1/load_lora_adapter. `model` is the base, where there are several."""

    lora_name: Name
    lora_path: Name
    model: Name | None = None
    scale: float | None = None


class UnloadAdapterBody(msgspec.Struct, kw_only=True):
    """POST /v1/unload_lora_adapter."""

    lora_name: Name
    model: Name | None = None


class AdapterAnswer(Answer):
    """`scale` is how it works for requests that name no adapter; `own_scale` for those that name it."""

    id: int
    name: str
    path: str
    scale: float
    own_scale: float
    n_in_use: int
    task_name: str = ""
    prompt_prefix: str = ""


class DoneAnswer(Answer):
    success: bool


SCALES = msgspec.json.Decoder(list[LoraScale])
LOAD = msgspec.json.Decoder(LoadAdapterBody)
UNLOAD = msgspec.json.Decoder(UnloadAdapterBody)


@dataclass(frozen=True, slots=True)
class AdaptersRoute:
    """GET and POST /lora-adapters, of the model that `?model=` names, or of the one that there is."""

    service: Service
    settings: ServerSettings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = parse_qs(scope["query_string"].decode("latin-1")).get("model", [""])[0]
        model = _base(self.service, asked)
        if scope["method"] == "POST":
            refuse_strange_pages(scope, self.settings)
            data = await read_body(scope, receive, MAX_ORDER_BYTES, self.settings.stall_s)
            given: list[LoraScale] = decode_body(data, SCALES)
            uses = [adapter_of(each, f"[{k}]") for k, each in enumerate(given)]
            scales = {use.adapter: use.scale for use in uses if use.scale is not None}
            await self.service.scale_adapters(scales, model=model.name)
            await send_json(send, msgspec.json.encode(DoneAnswer(success=True)))
            return
        await send_json(send, msgspec.json.encode([_told(adapter) for adapter in model.adapters]))


@dataclass(frozen=True, slots=True)
class LoadAdapterRoute:
    """POST /v1/load_lora_adapter."""

    service: Service
    settings: ServerSettings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refuse_strange_pages(scope, self.settings)
        body = decode_body(await read_body(scope, receive, MAX_ORDER_BYTES, self.settings.stall_s), LOAD)
        folders = _folders(self.settings)
        model = _base(self.service, body.model or "")
        path = await asyncio.get_running_loop().run_in_executor(None, allowed_path, body.lora_path, folders)
        scale = 1.0 if body.scale is None else body.scale
        await self.service.load_adapter(body.lora_name, path, model=model.name, scale=scale)
        await _send_text(send, f"Success: LoRA adapter '{body.lora_name}' added successfully.")


@dataclass(frozen=True, slots=True)
class UnloadAdapterRoute:
    """POST /v1/unload_lora_adapter."""

    service: Service
    settings: ServerSettings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refuse_strange_pages(scope, self.settings)
        body = decode_body(await read_body(scope, receive, MAX_ORDER_BYTES, self.settings.stall_s), UNLOAD)
        _folders(self.settings)
        owners = [m for m in self.service.models() if any(a.spec.name == body.lora_name for a in m.adapters)]
        if not owners and not body.model:
            raise NotThere(f"no model has an adapter {body.lora_name!r:.80}", param="lora_name")
        model = owners[0] if len(owners) == 1 and not body.model else _base(self.service, body.model or "")
        await self.service.unload_adapter(body.lora_name, model=model.name)
        await _send_text(send, f"Success: LoRA adapter '{body.lora_name}' removed successfully.")


def allowed_path(text: str, folders: Sequence[Path]) -> Path:
    """The file, which lies in one of the folders in truth. Blocking. Raises Forbidden, InvalidRequest.

    Of what lies elsewhere nothing is told, not even whether it is there.
    """
    try:
        tops = [folder.resolve() for folder in folders]
        found = [(top / text).resolve() for top in tops]  # of an absolute path, that path
        inside = [path for path in found if any(path.is_relative_to(top) for top in tops)]
        files = [path for path in inside if path.is_file()]
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL, links in a circle
        raise InvalidRequest("`lora_path` is no path of a file", param="lora_path") from error
    if not inside:
        raise Forbidden("`lora_path` lies in none of the folders that adapters may be loaded from")
    if not files:
        raise NotThere("there is no such file in the folders of adapters", param="lora_path")
    return files[0]


def _folders(settings: ServerSettings) -> tuple[Path, ...]:
    if not settings.adapter_folders:
        raise Forbidden(
            "adapters are not changed over HTTP here; `adapter_folders` in the manifest's [server] names folders that "
            "they may be loaded from"
        )
    return settings.adapter_folders


def _base(service: Service, name: str) -> ModelStatus:
    """The model that is meant. Raises ModelNotFound; InvalidRequest where none is said and several could be."""
    models = service.models()
    if name:
        return model_named(models, name, service.routes())
    able = [model for model in models if model.task not in ("embedding", "rerank")]
    if len(able) == 1:
        return able[0]
    names = ", ".join(model.name for model in able)
    raise InvalidRequest(f"`model` must name one of {names[:400] or 'no models'}", param="model")


def _told(adapter: AdapterStatus) -> AdapterAnswer:
    spec = adapter.spec
    return AdapterAnswer(
        id=adapter.number,
        name=spec.name,
        path=str(spec.path),
        scale=spec.default_scale,
        own_scale=spec.scale,
        n_in_use=adapter.n_in_use,
    )


async def _send_text(send: Send, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(text.encode()))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
