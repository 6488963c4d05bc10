"""A check's report on a terminal: pure functions from the document to rich renderables."""

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from internvl_trainer.curation.check.document import CheckReport, Fault
from internvl_trainer.curation.names import add_names


def tables(report: CheckReport) -> Iterator[RenderableType]:
    """Everything that the check has found, the verdict last, where a terminal still shows it."""
    yield _sources(report)
    if report.first_bad:
        yield _faults("Samples that cannot be trained on; the first of each reason", report.first_bad)
        yield _counts("BAD", {source.name: source.bad for source in report.sources})
    if report.first_warnings:
        yield _faults("Suspicious, but fit for training", report.first_warnings)
        yield _counts("SUSPICIOUS", {source.name: source.warnings for source in report.sources})
    if report.estimate is not None:
        yield _estimate(report)
    yield _verdict(report)


def _sources(report: CheckReport) -> Table:
    table = Table(title=Text(f"{report.data} for {report.model}", style="italic"), title_justify="left")
    add_names(table)
    for column in ("SAMPLES", "BAD", "", "SUSPICIOUS", "TOKENS", "TILES"):
        table.add_column(column, justify="right", no_wrap=True)
    for source in report.sources:
        table.add_row(
            Text(source.name),
            f"{source.samples:,}",
            f"{source.bad_samples:,}",
            Text(_percent(source.bad_share), style="" if source.within_budget else "bold red"),
            f"{sum(source.warnings.values()):,}",
            f"{source.tokens:,}",
            f"{source.tiles:,}",
        )
    return table


def _counts(heading: str, counts: dict[str, dict[str, int]]) -> Table:
    table = Table()
    add_names(table)
    table.add_column("REASON", no_wrap=True)
    table.add_column(heading, justify="right")
    for source, reasons in counts.items():
        for reason, samples in reasons.items():
            table.add_row(Text(source), reason, f"{samples:,}")
    return table


def _faults(title: str, faults: Sequence[Fault]) -> Group:
    """As lines, since a table would break long messages."""
    lines = [Text(title, style="italic")]
    reason = None
    for fault in faults:
        if fault.reason != reason:
            reason = fault.reason
            lines.append(Text(f"  {reason}", style="bold"))
        lines.append(Text(f"    {fault.file}:{fault.line}: {fault.detail}", overflow="fold"))
    return Group(*lines)


def _estimate(report: CheckReport) -> Text:
    fill = report.estimate
    assert fill is not None
    steps = ""
    if fill.steps is not None and fill.global_batch:
        each = fill.global_batch // fill.replicas
        steps = f", {fill.steps:,.1f} steps of {fill.global_batch:,} packs ({each:,} per replica)"
    return Text(
        f"An epoch is about {fill.packs:,} packs{steps}; {fill.samples_per_pack:.2f} samples in a pack, "
        f"{_percent(fill.token_fill)} of its tokens and {_percent(fill.tile_fill)} of its tiles filled."
    )


def _verdict(report: CheckReport) -> Group:
    decoded = f"{report.tiles_decoded:,} tiles decoded" if report.pixels else "no image or video decoded"
    read = f"{report.samples:,} samples read in {report.seconds:,.1f} s with --workers {report.workers}, {decoded}"
    found = f"{report.bad_samples:,} bad" + (f", all of them in {report.bad_file}" if report.bad_file else "")
    lines = [Text(f"{read}: {found}.")]
    lines += [Text(f"A stage would not begin: {problem}.", style="bold red") for problem in report.problems]
    if not report.complete:
        lines.append(Text("Not everything was read.", style="yellow"))
    elif not report.problems:
        lines.append(Text(f"Within the budget of {_percent(report.max_bad_fraction)}.", style="green"))
    return Group(*lines)


def _percent(share: float) -> str:
    return f"{share:.2%}".replace("%", " %")
