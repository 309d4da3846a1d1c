"""The report's charts as inline SVG, drawn by matplotlib: metrics with intervals, a histogram of IoU, reliability curves.

The same values give the same bytes. Text stays text, so that a browser draws it in any script.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from importlib.util import find_spec
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["can_plot", "plot_histogram", "plot_intervals", "plot_reliability"]

_INK, _FAINT, _GRID, _BLUE, _ORANGE = "#18181c", "#686870", "#dcdcda", "#0072b2", "#d55e00"
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "sam4mllm-tool",  # element ids are random without it
    "svg.fonttype": "none",
    "text.parse_math": False,  # labels come from datasets and may hold a "$"
    "text.usetex": False,
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _FAINT,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": _GRID,
    "xtick.color": _FAINT,
    "ytick.labelcolor": _INK,
    "ytick.color": _GRID,
}
_TICKS = (0, 25, 50, 75, 100)
_MAX_TITLE, _MAX_LABEL = 46, 24  # letters
_WIDTH = 3.7
"""Of a chart, in inches: a phone's screen shows it without scaling, so that its letters stay 9 points high."""


def can_plot() -> bool:
    """Return whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def plot_intervals(rows: Sequence[tuple[str, float, tuple[float, float]]], title: str) -> str:
    """Draw one line per metric: a dot at its value and a bar over its interval, in percent.

    Args:
        rows: Name, value and interval of each metric, in [0, 1].
        title: Stands above the chart.

    Returns:
        An `<svg>` element.
    """
    with _figure(title, _WIDTH, 0.8 + 0.28 * len(rows)) as (axes, svg):
        axes.set_xlim(0, 100)
        axes.set_xticks(_TICKS)
        axes.set_yticks(range(len(rows)), [_shorten(name, _MAX_LABEL) for name, _, _ in rows])
        axes.set_ylim(max(len(rows), 1) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        for row, (_, value, (low, high)) in enumerate(rows):
            axes.hlines(row, 100 * low, 100 * high, color=_BLUE, alpha=0.35, linewidth=4, clip_on=False)
            axes.plot(100 * value, row, "o", color=_BLUE, markersize=6, clip_on=False)
            axes.text(1.03, row, f"{100 * value:.1f}", transform=axes.get_yaxis_transform(), va="center")
    return svg.getvalue()


def plot_histogram(values: Sequence[float], title: str, bins: int = 20) -> str:
    """Draw how many of the values, in [0, 1], fall into each of equal bins, in percent. Returns an `<svg>` element."""
    counts, edges = np.histogram(np.asarray(values, np.float64), bins, (0, 1))
    with _figure(title, _WIDTH, 2.6) as (axes, svg):
        from matplotlib.ticker import MaxNLocator

        axes.set_xlim(0, 100)
        axes.set_xticks(_TICKS)
        axes.bar(100 * edges[:-1], counts, width=0.9 * 100 / bins, align="edge", color=_BLUE)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    return svg.getvalue()


def plot_reliability(bins: Sequence[Mapping[str, Any]], title: str) -> str:
    """Draw the share of right answers over their mean confidence, in percent; the diagonal is perfect calibration.

    Args:
        bins: As in metrics.json: count, confidence and right of each bin. A dot's area grows with the bin's count.
        title: Stands above the chart.

    Returns:
        An `<svg>` element.
    """
    largest = max((int(reliability_bin["count"]) for reliability_bin in bins), default=1)
    confidences = [100 * reliability_bin["confidence"] for reliability_bin in bins]
    shares = [100 * reliability_bin["right"] for reliability_bin in bins]
    areas = [20 + 180 * reliability_bin["count"] / largest for reliability_bin in bins]
    with _figure(title, _WIDTH, 3.9) as (axes, svg):
        axes.set(xlim=(0, 100), ylim=(0, 100), xticks=_TICKS, yticks=_TICKS, aspect="equal", xlabel="confidence, %")
        axes.plot((0, 100), (0, 100), color=_FAINT, linestyle="--", linewidth=1)
        axes.plot(confidences, shares, color=_ORANGE, linewidth=1.2)
        axes.scatter(confidences, shares, areas, color=_ORANGE, alpha=0.7, clip_on=False, zorder=3)
    return svg.getvalue()


@contextmanager
def _figure(title: str, width: float, height: float) -> Iterator[tuple["Axes", StringIO]]:
    """Yield axes to draw on and a buffer that holds their SVG when the block ends. width and height are in inches."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # text stays text, the browser has the glyph
        figure = Figure(figsize=(width, height), layout="constrained", facecolor="none")
        axes = figure.subplots()
        axes.set_facecolor("none")
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(length=0)
        figure.suptitle(_shorten(title, _MAX_TITLE), x=0.02, ha="left", fontsize=9, fontweight="bold")
        svg, file = StringIO(), StringIO()
        yield axes, svg
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    attributes = f'role="img" aria-label="{escape(title)}"'
    svg.write(f"<svg {attributes} {file.getvalue().partition('<svg ')[2]}")  # without the XML prolog


def _shorten(text: str, letters: int) -> str:
    """Shorten a dataset's text, and escape what can't be encoded."""
    encodable = text.encode("utf-8", "backslashreplace").decode()
    return encodable if len(encodable) <= letters else encodable[: letters - 1] + "…"
