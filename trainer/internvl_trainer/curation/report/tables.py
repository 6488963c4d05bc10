"""The report on a terminal: pure functions from the document to rich renderables."""

from collections.abc import Iterator

from rich import box
from rich.bar import Bar
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from internvl_trainer.curation.estimate import Fill
from internvl_trainer.curation.names import add_names
from internvl_trainer.curation.report.document import Amount, Histogram, MixtureReport, Part

ROWS = 12
"""Lines of a histogram: neighbouring bins are joined."""

BAR_WIDTH = 40


def tables(report: MixtureReport) -> Iterator[RenderableType]:
    """Everything that the report says, in the order of reading."""
    yield _kinds(report)
    yield _raw_kinds(report)
    yield _sources(report)
    yield _settings(report)
    if any(source.bad for source in report.sources):
        yield _bad(report)
    yield _histogram("Tokens of a sample", report.lengths)
    yield _histogram("Tiles of a sample", report.tiles)
    yield _fill(report.fill, report)


def _kinds(report: MixtureReport) -> Table:
    table = _shares_table(f"{report.data} for {report.model}: by type", "TYPE")
    table.add_column("REPORT'S\nTOKENS", justify="right", no_wrap=True)
    for name, part in report.kinds.items():
        table.add_row(name, *_cells(part), _percent(report.published_token_shares[name]))
    table.add_section()
    table.add_row("all", *_cells(report.total), "")
    return table


def _raw_kinds(report: MixtureReport) -> Table:
    """Beside `_kinds` it would not fit into a terminal of 80 columns."""
    table = Table(title="By type, as it lies there, before repeating", title_justify="left")
    table.add_column("TYPE", no_wrap=True)
    for column in ("RAW SAMPLES", "RAW TOKENS", "RAW TILES"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, part in report.kinds.items():
        table.add_row(name, *_shares(part.raw_share))
    return table


def _sources(report: MixtureReport) -> Table:
    table = _shares_table("By data set", "DATA SET")
    for source in report.sources:
        table.add_row(Text(source.name), *_cells(source))
    return table


def _settings(report: MixtureReport) -> Table:
    table = Table(title="Data sets", title_justify="left")
    add_names(table)
    for column in ("N_MAX", "R", "JPEG", "SAMPLES", "BAD", "TOKENS\nEACH", "TILES\nEACH", "RAW\nTOKENS"):
        table.add_column(column, justify="right", no_wrap=True)
    for source in report.sources:
        table.add_row(
            Text(source.name),
            str(source.n_max),
            f"{source.repeat:g}",
            "yes" if source.augment else "no",
            f"{source.rows:,}",
            f"{sum(source.bad.values()):,}",
            f"{source.mean_tokens:,.0f}",
            f"{source.mean_tiles:.1f}",
            _percent(source.raw_share.tokens),
        )
    return table


def _bad(report: MixtureReport) -> Table:
    table = Table(title="Samples left out", title_justify="left")
    add_names(table)
    table.add_column("REASON", no_wrap=True)
    table.add_column("SAMPLES", justify="right")
    for source in report.sources:
        for reason, samples in source.bad.items():
            table.add_row(Text(source.name), reason, f"{samples:,}")
    return table


def _histogram(title: str, histogram: Histogram) -> Group:
    totals, edges = histogram.totals, histogram.edges
    last = next((place for place in reversed(range(len(totals))) if totals[place]), 0)
    step = -(-(last + 1) // ROWS)
    joined = [sum(totals[start : start + step]) for start in range(0, last + 1, step)]
    heading = (
        f"{title}: mean {histogram.mean:,.1f}, median {histogram.median:,}, 95 % up to {histogram.p95:,}, "
        f"largest {histogram.largest:,}"
    )
    table = Table(show_header=False)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(width=BAR_WIDTH)
    for row, samples in enumerate(joined):
        first, beyond = edges[row * step], edges[min((row + 1) * step, len(totals))]
        span = f"{first:,}" if beyond == first + 1 else f"{first:,} .. {beyond - 1:,}"
        table.add_row(span, f"{samples:,.0f}", Bar(max(joined) or 1, 0, samples, width=BAR_WIDTH))
    return Group(Text(heading, style="italic"), table)


def _fill(fill: Fill, report: MixtureReport) -> Table:
    table = Table(title="Packs of one epoch", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("packs" if fill.exact else "packs, estimated", f"{fill.packs:,}")
    table.add_row("fewest that any packing needs", f"{fill.packs_bound:,}")
    table.add_row("samples in a pack", f"{fill.samples_per_pack:.2f}")
    table.add_row(f"tokens filled, of {report.pack_tokens:,}", _percent(fill.token_fill))
    table.add_row(f"tiles filled, of {report.pack_tiles:,}", _percent(fill.tile_fill))
    if fill.steps is not None and fill.global_batch:
        each = fill.global_batch // fill.replicas
        table.add_row(f"steps of {fill.global_batch:,} packs ({each:,} per replica)", f"{fill.steps:,.1f}")
    return table


def _shares_table(title: str, first: str) -> Table:
    """What an epoch draws, in numbers and shares."""
    table = Table(
        title=Text(title, style="italic"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    add_names(table, first)
    for column in ("SAMPLES", "", "TOKENS", "", "TILES", ""):
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _cells(part: Part) -> list[str]:
    numbers = [part.epoch.samples, part.epoch.tokens, part.epoch.tiles]
    return [cell for pair in zip(map(_number, numbers), _shares(part.epoch_share), strict=True) for cell in pair]


def _shares(amount: Amount) -> list[str]:
    return [_percent(amount.samples), _percent(amount.tokens), _percent(amount.tiles)]


def _number(value: float) -> str:
    return f"{value / 1e6:,.1f} M" if value >= 1e7 else f"{value:,.0f}"


def _percent(share: float) -> str:
    return f"{share:.2%}".replace("%", " %")
