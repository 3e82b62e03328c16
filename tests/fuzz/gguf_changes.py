"""One thing changed of a GGUF document, said shortly. `A.` stands for its architecture in the name of a key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tests.fuzz.gguf_document import STRING, U32, Document, Value


def key(name: str, value: Value) -> Callable[[Document], Document]:
    def change(document: Document) -> Document:
        architecture = document.value(b"general.architecture").data[8:].decode()
        return document.with_key(name.replace("A.", f"{architecture}.", 1).encode(), value)

    return change


def u32(name: str, value: int) -> Callable[[Document], Document]:
    return key(name, Value.scalar(U32, value))


def both(*changes: Callable[[Document], Document]) -> Callable[[Document], Document]:
    def change(document: Document) -> Document:
        for one in changes:
            document = one(document)
        return document

    return change


def typed(tensor: str, kind: int) -> Callable[[Document], Document]:
    def change(document: Document) -> Document:
        index = next(k for k, known in enumerate(document.tensors) if known.name == tensor.encode())
        return document.with_tensor(index, replace(document.tensors[index], kind=kind))

    return change


def tokens(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Document], Document]:
    def to(document: Document) -> Document:
        items = document.value(b"tokenizer.ggml.tokens").items
        return document.with_key(b"tokenizer.ggml.tokens", Value.array(STRING, change(items)))

    return to


def aligned(n: int) -> Callable[[Document], Document]:
    return lambda d: replace(d.with_key(b"general.alignment", Value.scalar(U32, n)), alignment=n)
