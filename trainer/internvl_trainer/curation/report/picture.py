"""The report as one figure, fit for a paper: shares by type and data set, sizes of samples, fill of packs."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING
from warnings import catch_warnings, simplefilter

from internvl_trainer.curation.report.document import KINDS, Histogram, MixtureReport, SourcePart

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"text": "#8c8c8c", "single image": "#3b6fb6", "multi image": "#e0902f", "video": "#4f9d69"}
FILLED, EMPTY = "#3b6fb6", "#e6e6e6"

NAMED = 0.047
"""Parts of a bar that are smaller than this have no room for a number."""

MOST_SOURCES = 16
"""Data sets with a bar, by their tokens; the title says where there are more."""

LONGEST = 24
"""Characters of a name; more of them would leave no room for bars."""


def draw(report: MixtureReport, path: Path) -> None:
    """Write the figure, as PNG, SVG or PDF by the name's ending. Needs no display."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = _largest(report.sources)
    with rc_context({"font.size": 8, "axes.titlesize": 9, "axes.titlelocation": "left", "svg.hashsalt": "internvl"}):
        figure = Figure(figsize=(8.4, 6.2 + 0.2 * len(shown)), layout="constrained")
        FigureCanvasAgg(figure)
        _panels(figure, report, shown)
        path.parent.mkdir(parents=True, exist_ok=True)
        with catch_warnings():
            # A name may be in a script that the font lacks; boxes stand for it then.
            simplefilter("ignore", UserWarning)
            figure.savefig(path, dpi=160, metadata=_undated(path))


def _panels(figure: "Figure", report: MixtureReport, shown: list[SourcePart]) -> None:
    grid = figure.add_gridspec(3, 2, height_ratios=[1.7, 0.5 + 0.2 * len(shown), 1.9], width_ratios=[1.9, 1])
    _by_kind(figure.add_subplot(grid[0, :]), report)
    _by_source(figure.add_subplot(grid[1, 0]), shown, of=len(report.sources))
    _fill(figure.add_subplot(grid[1, 1]), report)
    below = grid[2, :].subgridspec(1, 2)
    _sizes(figure.add_subplot(below[0, 0]), report.lengths, f"tokens of a sample (a pack: {report.pack_tokens:,})")
    _sizes(figure.add_subplot(below[0, 1]), report.tiles, f"tiles of a sample (a pack: {report.pack_tiles:,})")


def _by_kind(axes: "Axes", report: MixtureReport) -> None:
    bars = {
        "tokens, InternVL-2.5 report": report.published_token_shares,
        "tokens, an epoch": {kind: part.epoch_share.tokens for kind, part in report.kinds.items()},
        "tiles, an epoch": {kind: part.epoch_share.tiles for kind, part in report.kinds.items()},
        "samples, an epoch": {kind: part.epoch_share.samples for kind, part in report.kinds.items()},
        "samples, before repeating": {kind: part.raw_share.samples for kind, part in report.kinds.items()},
    }
    for place, shares in enumerate(bars.values()):
        left = 0.0
        for kind in KINDS:
            share = shares[kind]
            axes.barh(place, share, left=left, color=COLOURS[kind], label=None if place else kind, height=0.72)
            if share >= NAMED:
                axes.text(left + share / 2, place, f"{share:.1%}", ha="center", va="center", color="white")
            left += share
    axes.set_yticks(range(len(bars)), list(bars))
    axes.invert_yaxis()
    _plain(axes, horizontal=True)
    axes.set_title(
        f"By type: {report.total.epoch.samples:,.0f} samples, {report.total.epoch.tokens:,.0f} tokens an epoch"
    )
    axes.legend(ncols=len(KINDS), frameon=False, loc="lower center", bbox_to_anchor=(0.5, -0.36))


def _by_source(axes: "Axes", shown: list[SourcePart], of: int) -> None:
    places = range(len(shown))
    axes.barh(places, [source.epoch_share.tokens for source in shown], color=FILLED, height=0.62, label="an epoch")
    axes.plot(
        [source.raw_share.tokens for source in shown], places,
        linestyle="none", marker="|", markersize=10, markeredgewidth=1.6, color="black", label="before repeating",
    )  # fmt: skip
    axes.set_yticks(places, [_settings(source) for source in shown], parse_math=False)
    axes.invert_yaxis()
    _plain(axes, horizontal=True, whole=False)
    largest = f": the largest {len(shown)} of {of}" if len(shown) < of else ""
    axes.set_title(f"Tokens by data set{largest}")
    axes.legend(frameon=False, loc="lower right")


def _fill(axes: "Axes", report: MixtureReport) -> None:
    fill = report.fill
    bars = {"tokens": fill.token_fill, "tiles": fill.tile_fill}
    for place, share in enumerate(bars.values()):
        axes.bar(place, 1, color=EMPTY, width=0.6)
        axes.bar(place, share, color=FILLED, width=0.6)
        axes.text(
            place, share - 0.03, f"{share:.1%}", ha="center", va="top", color="white" if share > 0.15 else "black"
        )
    axes.set_xticks(range(len(bars)), list(bars))
    axes.set_xlim(-0.7, len(bars) - 0.3)
    _plain(axes, horizontal=False)
    axes.set_title(f"Fill of {fill.packs:,} packs")


def _sizes(axes: "Axes", histogram: Histogram, label: str) -> None:
    last = max((place for place, samples in enumerate(histogram.totals) if samples), default=0) + 1
    # Numbers of tiles stand in the middle of their bars, where a bin is one of them.
    shift = -0.5 if histogram.edges[0] == 0 else 0.0
    edges = [edge + shift for edge in histogram.edges[: last + 1]]
    below = [0.0] * last
    for kind in KINDS:
        counts = histogram.counts[kind][:last]
        widths = [right - left for left, right in pairwise(edges)]
        axes.bar(edges[:-1], counts, width=widths, bottom=below, align="edge", color=COLOURS[kind], linewidth=0)
        below = [low + more for low, more in zip(below, counts, strict=True)]
    axes.set_ylim(0, 1.08 * max(*below, 1))
    axes.axvline(histogram.mean, color="black", linewidth=0.9, linestyle="--")
    axes.annotate(
        f"mean {histogram.mean:,.1f}", (histogram.mean, 1), xycoords=("data", "axes fraction"),
        xytext=(3, -3), textcoords="offset points", va="top",
    )  # fmt: skip
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel(label)
    axes.set_ylabel("samples an epoch")
    axes.spines[["top", "right"]].set_visible(False)


def _plain(axes: "Axes", *, horizontal: bool, whole: bool = True) -> None:
    """Percent along one axis, of the whole or as far as the bars go, and no frame."""
    from matplotlib.ticker import PercentFormatter

    axis = axes.xaxis if horizontal else axes.yaxis
    axis.set_major_formatter(PercentFormatter(1, decimals=0))
    if whole:
        (axes.set_xlim if horizontal else axes.set_ylim)(0, 1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y" if horizontal else "x", length=0)


def _settings(source: SourcePart) -> str:
    name = source.name if len(source.name) <= LONGEST else f"{source.name[: LONGEST - 1]}…"
    return f"{name}  (n_max {source.n_max}, r {source.repeat:g})"


def _largest(sources: list[SourcePart]) -> list[SourcePart]:
    return sorted(sources, key=lambda source: -source.epoch_share.tokens)[:MOST_SOURCES]


def _undated(path: Path) -> Mapping[str, str | None]:
    """The same report gives the same file, so no date in it where a format would put one."""
    return {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix, {})
