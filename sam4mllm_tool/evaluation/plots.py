"""Three small plots as inline SVG: figures with their intervals, how IoU is distributed, a reliability curve.

Plain markup, so that a report needs no library and stands alone. Lengths are in the SVG's own pixels.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

__all__ = ["histogram", "interval_plot", "reliability_plot"]

_INK, _FAINT, _GRID, _BLUE, _ORANGE = "#18181c", "#686870", "#dcdcda", "#0072b2", "#d55e00"
_STYLE = f"font-family:system-ui,sans-serif;font-size:12px;fill:{_INK}"
_TICKS = (0, 0.25, 0.5, 0.75, 1)


def interval_plot(rows: Sequence[tuple[str, float, tuple[float, float]]], title: str) -> str:
    """A line for each figure from 0 to 1: its name, a dot at its value, a bar from end to end of its interval."""
    left, right, step = 190, 70, 26
    width, top = 640, 34
    bottom = top + step * len(rows)
    scale = width - left - right
    parts = [_text(8, 18, title, weight="600"), *_axis_x(left, scale, top - 4, bottom)]
    for number, (name, value, (low, high)) in enumerate(rows):
        y = top + step * number + step / 2
        parts += [
            _text(left - 10, y + 4, name, anchor="end"),
            _line(left + low * scale, y, left + high * scale, y, _BLUE, 5, opacity=0.35),
            f'<circle cx="{_n(left + value * scale)}" cy="{_n(y)}" r="4.5" fill="{_BLUE}"/>',
            _text(left + scale + 12, y + 4, f"{100 * value:.1f}"),
        ]
    return _svg(width, bottom + 30, parts, title)


def histogram(values: Sequence[float], title: str, bins: int = 20) -> str:
    """How many of the values, 0 to 1, fall into each of the equal bins."""
    counts, _ = np.histogram(np.asarray(values, np.float64), bins, (0, 1))
    width, left, top, height = 640, 60, 34, 170
    scale, most = width - left - 30, max(1, int(counts.max(initial=0)))
    parts = [_text(8, 18, title, weight="600"), *_axis_x(left, scale, top, top + height)]
    for count in sorted({0, most // 2, most}):
        y = top + height * (1 - count / most)
        parts += [_line(left, y, left + scale, y, _GRID), _text(left - 8, y + 4, f"{count:,}", anchor="end")]
    for index, count in enumerate(counts.tolist()):
        tall = height * count / most
        x, w = left + scale * index / bins, scale / bins
        parts.append(_rect(x + 1, top + height - tall, w - 2, tall, _BLUE, f"{count:,} samples"))
    return _svg(width, top + height + 30, parts, title)


def reliability_plot(bins: Sequence[Mapping[str, Any]], title: str) -> str:
    """Share that is right over mean confidence, a dot a bin, as large as the bin has answers; the diagonal is perfect."""
    side, left, top = 280, 60, 34
    most = max((int(one["count"]) for one in bins), default=1)
    parts = [_text(8, 18, title, weight="600"), *_axis_x(left, side, top, top + side)]
    for tick in _TICKS:
        y = top + side * (1 - tick)
        parts += [_line(left, y, left + side, y, _GRID), _text(left - 8, y + 4, f"{100 * tick:.0f}", anchor="end")]
    parts.append(_line(left, top + side, left + side, top, _FAINT, 1, dash=True))
    places = [(left + side * one["confidence"], top + side * (1 - one["right"])) for one in bins]
    path = " ".join(f"{_n(x)},{_n(y)}" for x, y in places)
    parts.append(f'<polyline points="{path}" fill="none" stroke="{_ORANGE}" stroke-width="1.5"/>')
    for (x, y), one in zip(places, bins, strict=True):
        radius = 3 + 7 * (int(one["count"]) / most) ** 0.5
        told = f"{one['count']:,} answers: confidence {one['confidence']:.3f}, right {one['right']:.3f}"
        parts.append(
            f'<circle cx="{_n(x)}" cy="{_n(y)}" r="{_n(radius)}" fill="{_ORANGE}" fill-opacity="0.7">'
            f"<title>{escape(told)}</title></circle>"
        )
    parts.append(_text(left + side / 2, top + side + 34, "confidence, %", anchor="middle", fill=_FAINT))
    return _svg(left + side + 40, top + side + 44, parts, title)


def _axis_x(left: float, scale: float, top: float, bottom: float) -> Iterable[str]:
    for tick in _TICKS:
        x = left + scale * tick
        yield _line(x, top, x, bottom, _GRID)
        yield _text(x, bottom + 16, f"{100 * tick:.0f}", anchor="middle", fill=_FAINT)


def _svg(width: float, height: float, parts: Iterable[str], title: str) -> str:
    size = f'width="{_n(width)}" height="{_n(height)}" viewBox="0 0 {_n(width)} {_n(height)}"'
    body = "\n".join(parts)
    names = f'role="img" aria-label="{escape(title)}" style="{_STYLE}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {names}>\n{body}\n</svg>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "400", fill: str = _INK) -> str:
    place = f'x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}" font-weight="{weight}" fill="{fill}"'
    return f"<text {place}>{escape(text)}</text>"


def _line(
    x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1, *, opacity: float = 1, dash: bool = False
) -> str:
    ends = f'x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}"'
    dashes = ' stroke-dasharray="4 4"' if dash else ""
    return f'<line {ends} stroke="{colour}" stroke-width="{_n(width)}" stroke-opacity="{opacity}"{dashes}/>'


def _rect(x: float, y: float, width: float, height: float, colour: str, told: str) -> str:
    place = f'x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}"'
    return f'<rect {place} fill="{colour}"><title>{escape(told)}</title></rect>'


def _n(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")
