"""Show a report on a terminal. Knows rich; computes nothing."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from llamahost.bench.report import Cell, Comparison, Report, ServerInfo, Summary
from llamahost.bench.stats import Quantiles, Spread


def show(report: Report, console: Console) -> None:
    console.print(_servers(report, console))
    for workload in dict.fromkeys(cell.workload for cell in report.cells):
        cells = [cell for cell in report.cells if cell.workload == workload]
        console.print(_figures(workload, cells, console))
        if any(cell.comparisons for cell in cells):
            console.print(_ratios(workload, cells, console))
    for cell in report.cells:
        for summary in cell.summaries:
            _show_troubles(cell, summary, console)


def fitting(title: str, columns: Sequence[str], groups: Sequence[Sequence[Sequence[str]]], console: Console) -> Table:
    """A line for each row, whose name its first two columns are; turned round where that is too wide.

    A line is drawn between groups of rows.
    """
    table = Table(title=title, title_justify="left")
    for k, column in enumerate(columns):
        table.add_column(column, justify="left" if k < 2 else "right")
    for group in groups:
        for row in group:
            table.add_row(*row)
        table.add_section()
    if console.measure(table, options=console.options.update_width(4096)).maximum <= console.width:
        return table
    rows = [row for group in groups for row in group]
    turned = Table(title=title, title_justify="left", show_header=False)
    turned.add_column(justify="left")
    for _ in rows:
        turned.add_column(justify="right", overflow="fold")
    for k, column in enumerate(columns):
        turned.add_row(column, *(row[k] for row in rows), end_section=k == 1)
    return turned


def _servers(report: Report, console: Console) -> Table:
    columns = ("server", "url", "to /health", "to first answer", "resident", "peak", "anonymous")
    rows = [
        (server.name, server.url, _s(server.health_s), _s(server.ready_s), *_memory(server))
        for server in report.servers
    ]
    return fitting("servers", columns, [rows], console)


def _memory(server: ServerInfo) -> tuple[str, str, str]:
    if server.memory is None:
        return "-", "-", "-"
    memory = server.memory
    return _mb(memory.resident_bytes), _mb(memory.peak_bytes), _mb(memory.anonymous_bytes)


def _figures(workload: str, cells: list[Cell], console: Console) -> Table:
    title = f"{workload}: medians of rounds; latencies p50 / p90 / p99 in ms"
    columns = ("load", "server", "tokens/s", "prompt t/s", "requests/s", "first token", "between events", "whole")
    groups = [[_row(cell, summary) for summary in cell.summaries] for cell in cells]
    return fitting(title, (*columns, "cached", "failed", "client CPU"), groups, console)


def _row(cell: Cell, summary: Summary) -> tuple[str, ...]:
    return (
        cell.load,
        summary.server,
        _middle(summary.tokens_per_s) + ("" if summary.is_metered else " (events)"),
        _middle(summary.prompt_tokens_per_s),
        _middle(summary.requests_per_s, digits=2),
        _ms(summary.first_s),
        _ms(summary.gap_s),
        _ms(summary.total_s),
        f"{summary.n_cached / summary.n_prompt:.0%}" if summary.n_prompt else "-",
        f"{summary.n_failed}/{summary.n_requests}",
        f"{summary.client_cpu_share:.0%}",
    )


def _ratios(workload: str, cells: list[Cell], console: Console) -> Table:
    base = next(comparison.base for cell in cells for comparison in cell.comparisons)
    title = f"{workload}: {base} against others, above 1 favours it; median of rounds (quartiles; min .. max)"
    columns = ("load", "rival", "rounds", "tokens/s", "first p50", "first p99", "between p50", "between p99")
    groups = [[_ratio_row(cell, comparison) for comparison in cell.comparisons] for cell in cells]
    return fitting(title, columns, groups, console)


def _ratio_row(cell: Cell, comparison: Comparison) -> tuple[str, ...]:
    keys = ("tokens_per_s", "first_p50", "first_p99", "gap_p50", "gap_p99")
    is_marked = comparison.is_best_rival and len(cell.comparisons) > 1
    name = f"{comparison.rival} (best rival)" if is_marked else comparison.rival
    n = max((ratio.spread.n for ratio in comparison.ratios.values()), default=0)
    return (cell.load, name, str(n), *(_ratio(comparison, key) for key in keys))


def _ratio(comparison: Comparison, key: str) -> str:
    ratio = comparison.ratios.get(key)
    if ratio is None:
        return "-"
    s = ratio.spread
    if key == "tokens_per_s":
        return f"{s.median:.3f} ({s.q1:.3f}-{s.q3:.3f}; {s.low:.3f} .. {s.high:.3f})"
    return f"{s.median:.2f} ({s.low:.2f} .. {s.high:.2f})"


def _show_troubles(cell: Cell, summary: Summary, console: Console) -> None:
    where = f"{cell.workload} {cell.load} {summary.server}"
    if summary.errors:
        kinds = ", ".join(f"{kind}: {n}" for kind, n in summary.errors.items())
        console.print(f"failed in {where}: {kinds}", style="red", markup=False)
        for detail in summary.details:
            console.print(f"  {detail}", markup=False)
    if summary.n_skipped:
        console.print(f"{summary.n_skipped} requests of {where} were not begun: the time was up", style="yellow")
    if summary.other_cpu_share is not None and summary.other_cpu_share > 0.1:
        share = f"{summary.other_cpu_share:.0%} of a CPU"
        console.print(f"other processes took {share} during {where}: the figures are disturbed", style="yellow")
    if summary.client_cpu_share > 0.5:
        console.print(f"the client took {summary.client_cpu_share:.0%} of a CPU in {where}", style="yellow")


def _s(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.3f} s"


def _mb(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.0f} MB"


def _middle(values: Spread | None, digits: int = 0) -> str:
    return "-" if values is None else f"{values.median:.{digits}f}"


def _ms(values: Quantiles | None) -> str:
    if values is None:
        return "-"
    return " / ".join(
        f"{value * 1e3:.3g}" if value < 0.1 else f"{value * 1e3:.0f}" for value in (values.p50, values.p90, values.p99)
    )
