"""Plots as SVG text: stacked bars, step and scatter lines. Pure; no fonts, scripts or addresses from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

# Okabe and Ito's palette: told apart by people who do not see all colours.
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#f0e442", "#555555")
WIDTH, HEIGHT = 640, 340
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 34, 48
LEGEND_PX = 18
BAR_PX, BAR_GAP_PX = 26, 18
TICKS = 5


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a plot.

    Attributes:
        name: for the legend, "" for none.
        points: (x, y) in drawing order.
        style: "line", "step" (holds y until the next x) or "dots".
        bars: per point (low, high) of y; empty for none. labels: words beside each point; empty for none.
    """

    name: str
    points: Sequence[tuple[float, float]]
    style: str = "line"
    bars: Sequence[tuple[float, float]] = ()
    labels: Sequence[str] = ()


def plot(
    title: str,
    x_label: str,
    y_label: str,
    lines: Sequence[Line],
    *,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
) -> str:
    """An x-y plot as one <svg> element.

    Args:
        x_range: bounds of the x axis; None spans the values. y_range: likewise; None spans zero to the largest value.
    """
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points] + [v for line in lines for bar in line.bars for v in bar]
    x_low, x_high = _span(*x_range) if x_range else _span(min(xs, default=0.0), max(xs, default=1.0))
    y_low, y_high = y_range or _span(0.0, max(ys, default=1.0))
    named = len(lines) > 1 and any(line.name for line in lines)
    top = TOP + LEGEND_PX if named else TOP
    inner_w, inner_h = WIDTH - LEFT - RIGHT, HEIGHT - top - BOTTOM

    def at(x: float, y: float) -> tuple[float, float]:
        across, up = (x - x_low) / (x_high - x_low), (y - y_low) / (y_high - y_low)
        return LEFT + inner_w * across, HEIGHT - BOTTOM - inner_h * min(max(up, 0.0), 1.0)

    parts = [_text(WIDTH / 2, 18, title, "title")]
    for value in _ticks(x_low, x_high):
        x, _ = at(value, y_low)
        parts += [
            _stroke([(x, top), (x, HEIGHT - BOTTOM)], "grid"),
            _text(x, HEIGHT - BOTTOM + 16, _number(value), "tick"),
        ]
    for value in _ticks(y_low, y_high):
        _, y = at(x_low, value)
        parts += [_stroke([(LEFT, y), (WIDTH - RIGHT, y)], "grid"), _text(LEFT - 6, y + 4, _number(value), "tick end")]
    parts += [
        _text(LEFT + inner_w / 2, HEIGHT - 8, x_label, "label"),
        f'<g transform="translate(14 {top + inner_h / 2:.1f}) rotate(-90)">{_text(0, 0, y_label, "label")}</g>',
    ]
    for i, line in enumerate(lines):
        colour = PALETTE[i % len(PALETTE)]
        parts += _drawn(line, [at(*p) for p in line.points], colour)
        for (x, _), (low, high) in zip(line.points, line.bars, strict=False):
            parts.append(_stroke([at(x, low), at(x, high)], "", colour))
        for point, words in zip(line.points, line.labels, strict=False):
            x, y = at(*point)
            parts.append(_text(x + 5, y - 6, words, "tick start"))
        if named:
            x = LEFT + i * inner_w / len(lines)
            parts.append(f'<rect x="{x:.1f}" y="{TOP - 4}" width="10" height="10" fill="{colour}"/>')
            parts.append(_text(x + 15, TOP + 5, line.name, "tick start"))
    return _svg(WIDTH, HEIGHT, title, parts)


def stacked_bars(title: str, unit: str, rows: Sequence[tuple[str, Sequence[tuple[str, float]]]]) -> str:
    """Horizontal bars of consecutive parts, the legend below: where the time of a request goes.

    Args:
        rows: (row name, [(part name, length)]); all rows name the same parts.
    """
    longest = max((sum(v for _, v in parts) for _, parts in rows), default=1.0) or 1.0
    names = [name for name, _ in rows[0][1]] if rows else []
    left, legend_rows = 90, -(-len(names) // 4)
    height = TOP + len(rows) * (BAR_PX + BAR_GAP_PX) + legend_rows * 18 + 16
    scale = (WIDTH - left - 90) / longest
    out = [_text(WIDTH / 2, 18, title, "title")]
    for r, (name, parts) in enumerate(rows):
        y, x = TOP + r * (BAR_PX + BAR_GAP_PX), float(left)
        out.append(_text(left - 8, y + BAR_PX * 0.68, name, "tick end"))
        for i, (part, value) in enumerate(parts):
            width = max(value, 0.0) * scale
            tip = f"<title>{escape(part)}: {_number(value)} {escape(unit)}</title>"
            fill = PALETTE[i % len(PALETTE)]
            out.append(
                f'<rect class="part" x="{x:.2f}" y="{y}" width="{width:.2f}" height="{BAR_PX}" fill="{fill}">{tip}</rect>'
            )
            x += width
        out.append(_text(x + 6, y + BAR_PX * 0.68, f"{_number(sum(v for _, v in parts))} {unit}", "tick start"))
    for i, name in enumerate(names):
        x, y = left + (i % 4) * 130, TOP + len(rows) * (BAR_PX + BAR_GAP_PX) + (i // 4) * 18
        out.append(f'<rect x="{x}" y="{y}" width="10" height="10" fill="{PALETTE[i % len(PALETTE)]}"/>')
        out.append(_text(x + 15, y + 9, name, "tick start"))
    return _svg(WIDTH, height, title, out)


def _drawn(line: Line, points: Sequence[tuple[float, float]], colour: str) -> list[str]:
    dots = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
    if line.style == "dots" or len(points) < 2:
        return dots
    if line.style == "step":
        corners = [(b[0], a[1]) for a, b in pairwise(points)]
        mixed = [p for pair in zip(points, [*corners, points[-1]], strict=True) for p in pair]
        return [_stroke(mixed, "", colour)]
    return [_stroke(points, "", colour), *dots]


def _stroke(points: Sequence[tuple[float, float]], kind: str, colour: str = "") -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    paint = f' stroke="{colour}"' if colour else ""
    return f'<polyline class="{kind or "curve"}" fill="none"{paint} points="{path}"/>'


def _text(x: float, y: float, words: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>'


def _svg(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    style = (
        "text{font:12px sans-serif;fill:#222;text-anchor:middle}.title{font-size:14px;font-weight:bold}"
        ".end{text-anchor:end}.start{text-anchor:start}.grid{stroke:#ddd}.curve{stroke-width:2}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(title)}" viewBox="0 0 {width} {height}"'
        f' width="{width}" height="{height}"><style>{style}</style><rect width="100%" height="100%" fill="#fff"/>'
        + "".join(parts)
        + "</svg>"
    )


def _span(low: float, high: float) -> tuple[float, float]:
    if not (math.isfinite(low) and math.isfinite(high)):
        return 0.0, 1.0
    return (low, high) if high > low else (low - 0.5 if low else 0.0, low + max(abs(low) * 0.1, 0.5))


def _ticks(low: float, high: float) -> list[float]:
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, int(high / step + 1e-9) + 1)]


def _number(value: float) -> str:
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
