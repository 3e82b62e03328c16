"""How a server stands, as lines for a terminal: GPUs, models, queues. Pure: figures in, text out.

A terminal that is too narrow loses columns, the least needed first; what a server says is cleaned of everything that a
terminal would obey.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from llamahost.api.admin_types import GpuInfo, GpusInfo, ModelInfo, ReplicaInfo, StatsInfo
from llamahost.commands.words import counted
from llamahost.core.sizes import bytes_told

Style = Literal["", "head", "bad"]
BAR = 10


@dataclass(frozen=True, slots=True)
class Line:
    """A line, and how it is shown where there are colours."""

    text: str
    style: Style = ""


@dataclass(frozen=True, slots=True)
class Column:
    """`rank` 0 stays whatever the width; the highest goes first. Figures stand to the right."""

    title: str
    rank: int
    is_figure: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    cells: tuple[str, ...]
    style: Style = ""


MODEL_COLUMNS = (
    Column("model", 0),
    Column("state", 0),
    Column("devices", 4),
    Column("memory", 3, is_figure=True),
    Column("ctx", 6, is_figure=True),
    Column("busy", 1, is_figure=True),
    Column("queue", 1, is_figure=True),
    Column("tok/s", 2, is_figure=True),
    Column("prompt/s", 7, is_figure=True),
    Column("req/min", 5, is_figure=True),
    Column("used", 4, is_figure=True),
)

GPU_COLUMNS = (
    Column("gpu", 0),
    Column("name", 3),
    Column("memory", 0, is_figure=True),
    Column("", 4),
    Column("use", 1, is_figure=True),
    Column("temp", 2, is_figure=True),
    Column("power", 3, is_figure=True),
    Column("MHz", 5, is_figure=True),
    Column("held back by", 4),
)


def frame(stats: StatsInfo, gpus: GpusInfo, models: Sequence[ModelInfo], *, width: int, now: float) -> list[Line]:
    """The whole picture."""
    loaded = f"{stats.models_loaded} of {len(models)} models loaded"
    summary = (
        f"{stats.tokens_per_second:.1f} tokens/s",
        f"{stats.requests_per_minute} requests/min",
        counted(stats.active_connections, "connection"),
        loaded,
    )
    lines = [Line(fitted("   ".join(summary), width), "head"), Line("")]
    if gpus.gpus:
        lines += [*table(GPU_COLUMNS, [gpu_row(gpu) for gpu in gpus.gpus], width), Line("")]
    else:
        lines += [Line(fitted(f"no GPU: {clean(gpus.trouble)}", width)), Line("")]
    return lines + models_told(models, width=width, now=now)


def models_told(models: Sequence[ModelInfo], *, width: int, now: float) -> list[Line]:
    """The table of models, and below it why some are not ready, or not wholly on their GPU."""
    if not models:
        return [Line("no model is known here")]
    rows = [row for model in models for row in model_rows(model, now)]
    lines = table(MODEL_COLUMNS, rows, width)
    for model in models:
        if model.reason:
            style: Style = "bad" if model.state == "failed" else ""
            lines.append(Line(fitted(f"{clean(model.id)}: {clean(model.reason)}", width), style))
        for replica in model.replicas:
            if replica.note:
                lines.append(Line(fitted(f"{clean(replica.id)}: {clean(replica.note)}", width)))
    return lines


def model_rows(model: ModelInfo, now: float) -> list[Row]:
    """One, and below it one for each replica where there are several."""
    bad: Style = "bad" if model.state == "failed" or model.is_stalled else ""
    rates = model.rates
    cells = (
        clean(model.id),
        state_told(model.state, model.progress, is_stalled=model.is_stalled),
        clean(", ".join(model.devices)) or "-",
        bytes_told(model.memory_bytes) if model.memory_bytes else "-",
        str(model.n_ctx or "-"),
        f"{model.n_running}/{model.n_slots}" if model.n_slots else "-",
        str(model.n_waiting + model.n_pending),
        f"{rates.tokens_per_s:.1f}",
        f"{rates.prompt_tokens_per_s:.1f}",
        str(rates.requests_per_min),
        ago(model.last_used, now),
    )
    if len(model.replicas) < 2:
        return [Row(cells, bad)]
    return [Row(cells, bad), *(_replica_row(each, now) for each in model.replicas)]


def _replica_row(replica: ReplicaInfo, now: float) -> Row:
    """Rates are counted for the model alone."""
    memory = (replica.measured or replica.estimated).total_bytes
    cells = (
        f"  {clean(replica.id)}",
        state_told(replica.state, replica.progress, is_stalled=replica.is_stalled),
        clean(", ".join(replica.devices)) or "-",
        bytes_told(memory) if memory else "-",
        "",
        f"{replica.n_running}/{replica.n_slots}" if replica.n_slots else "-",
        str(replica.n_waiting),
        "",
        "",
        "",
        ago(replica.last_used, now),
    )
    return Row(cells, "bad" if replica.state == "failed" or replica.is_stalled else "")


def gpu_row(gpu: GpuInfo) -> Row:
    used, total = gpu.used_bytes, gpu.total_bytes
    memory, bar = "-", ""
    if used is not None and total:
        memory = f"{bytes_told(used)} / {bytes_told(total)}"
        full = min(BAR, round(BAR * used / total))
        bar = "#" * full + "." * (BAR - full)
    reasons = [reason for reason in gpu.throttled_by or () if reason != "idle"]
    cells = (
        str(gpu.index),
        clean(gpu.name) or "-",
        memory,
        bar,
        "-" if gpu.utilisation is None else f"{gpu.utilisation:.0%}",
        "-" if gpu.temperature_c is None else f"{gpu.temperature_c} °C",
        _of(gpu.power_w, gpu.power_limit_w, "W"),
        "-" if gpu.sm_clock_mhz is None else str(gpu.sm_clock_mhz),
        clean(gpu.trouble or (f"out of use: {gpu.broken_by}" if gpu.broken_by else ", ".join(reasons))),
    )
    return Row(cells, "bad" if gpu.trouble or gpu.broken_by else "")


def table(columns: Sequence[Column], rows: Sequence[Row], width: int) -> list[Line]:
    """Columns as wide as what they hold; of those that do not fit together, the least needed are left out."""
    shown = [k for k, column in enumerate(columns) if not column.title or any(row.cells[k] for row in rows)]
    widths = [max(len(columns[k].title), *(len(row.cells[k]) for row in rows)) for k in range(len(columns))]

    def needed() -> int:
        return sum(widths[k] + 2 for k in shown) - 2

    while needed() > width and (least := max(shown, key=lambda k: columns[k].rank)) and columns[least].rank:
        shown.remove(least)
    if shown and needed() > width:  # the first one gives way: it is a name, and the longest
        widths[shown[0]] = max(4, widths[shown[0]] - (needed() - width))

    def line(cells: Sequence[str]) -> str:
        parts = []
        for k in shown:
            cell = fitted(cells[k], widths[k])
            parts.append(cell.rjust(widths[k]) if columns[k].is_figure else cell.ljust(widths[k]))
        return fitted("  ".join(parts).rstrip(), width)

    titles = Line(line([column.title for column in columns]), "head")
    return [titles, *(Line(line(row.cells), row.style) for row in rows)]


def state_told(state: str, progress: float, *, is_stalled: bool) -> str:
    if is_stalled:
        return "stalled"
    return f"{state} {progress:.0%}" if state in ("loading", "pulling") else state


def ago(at: float | None, now: float) -> str:
    """How long it is, in the largest unit."""
    if not at:
        return "-"
    seconds = max(0.0, now - at)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds:.0f} s"


def fitted(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def clean(text: str) -> str:
    """Nothing that a terminal would do something at."""
    return "".join(each if each.isprintable() else " " if each.isspace() else "?" for each in text)


def _of(value: float | None, limit: float | None, unit: str) -> str:
    if value is None:
        return "-"
    return f"{value:.0f} {unit}" if limit is None else f"{value:.0f} / {limit:.0f} {unit}"
