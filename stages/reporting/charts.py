"""Charts as inline SVG. Colours and fonts are the page's CSS classes, so that they follow light and dark.

Every function returns markup that is safe to insert: labels are escaped, the rest are numbers.
"""

import math

from markupsafe import Markup, escape

WIDTH, WIDE = 340, 520  # a third and a half of the page
NAMES = {
    "student_grammar": "+ grammar",
    "bm25": "BM25",
    "hybrid_trained": "trained hybrid",
    "hybrid_reranked": "reranked hybrid",
    "trained_last_turn": "last turn alone",
}


def number(value: float | None) -> str:
    """A figure for people: 12,345 or 0.873 or 1.2e-05; a dash for none."""
    if value is None:
        return "–"
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if 0 < abs(value) < 0.001 else f"{value:,.3f}".rstrip("0").rstrip(".")


def signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}".replace("-", "−")


def _svg(height: int, parts: list[str], label: str, width: int = WIDTH) -> Markup:
    body = "".join(parts)
    return Markup(
        f'<svg viewBox="0 0 {width} {height}" class="{"wide" if width == WIDE else ""}" role="img" '
        f'aria-label="{escape(label)}">{body}</svg>'
    )


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>'


def interval_bars(
    rows: list[tuple[str, dict | None]], label: str, highest: float = 1, left: int = 74
) -> Markup:
    """Bars from 0 to `highest` with a 95% interval; `rows` are (system, {"mean", "low", "high"} or None).

    `left` is the room for the names of systems.
    """
    right, step = 44, 26
    span = WIDTH - left - right
    parts = []
    for place, (system, value) in enumerate(rows):
        y = place * step + 4
        parts.append(_text(left - 8, y + 13, NAMES.get(system, system), "name", "end"))
        parts.append(f'<rect x="{left}" y="{y}" width="{span}" height="18" rx="3" class="track"/>')
        if value is not None:
            shares = (min(max(value[key] / highest, 0), 1) for key in ("mean", "low", "high"))
            mean, low, high = (left + span * share for share in shares)
            size = f'width="{max(mean - left, 1):.1f}" height="18"'
            parts.append(f'<rect x="{left}" y="{y}" {size} rx="3" class="fill {system}"/>')
            whisker = f"M{low:.1f} {y + 9}H{high:.1f}M{low:.1f} {y + 5}v8M{high:.1f} {y + 5}v8"
            parts.append(f'<path d="{whisker}" class="whisker"/>')
        shown = "–" if value is None else f"{value['mean']:{'.3f' if highest == 1 else ',.1f'}}"
        parts.append(_text(WIDTH, y + 13, shown, "value", "end"))
    return _svg(len(rows) * step + 4, parts, label)


def boxes(rows: list[tuple[str, dict]], label: str, left: int = 108) -> Markup:
    """Box plots on one axis up to 1; `rows` are (system, {"low", "q1", "median", "q3", "high", "beyond", …}).

    The axis begins at 0, or at the lowest value below that. `left` is the room for the names of systems.
    """
    right, step = 44, 26
    lowest = min([0.0, *(value for _, own in rows for value in (own["low"], *own["beyond"]))])

    def place(value: float) -> float:
        return left + (WIDTH - left - right) * (value - lowest) / (1 - lowest)

    parts = []
    for number_of_row, (system, own) in enumerate(rows):
        y = number_of_row * step + 4
        low, q1, median, q3, high = (place(own[key]) for key in ("low", "q1", "median", "q3", "high"))
        parts.append(_text(left - 8, y + 13, NAMES.get(system, system), "name", "end"))
        parts.append(f'<path d="M{left} {y + 9}H{WIDTH - right}" class="gridline"/>')
        parts.append(
            f'<path d="M{low:.1f} {y + 9}H{high:.1f}M{low:.1f} {y + 5}v8M{high:.1f} {y + 5}v8" '
            'class="whisker"/>'
        )
        size = f'width="{max(q3 - q1, 1):.1f}" height="18"'
        parts.append(f'<rect x="{q1:.1f}" y="{y}" {size} rx="2" class="fill {system}"/>')
        parts.append(f'<path d="M{median:.1f} {y}v18" class="whisker"/>')
        dots = (place(value) for value in own["beyond"])
        parts += [f'<circle cx="{x:.1f}" cy="{y + 9}" r="2.2" class="fill {system}"/>' for x in dots]
        parts.append(_text(WIDTH, y + 13, f"{own['median']:.3f}", "value", "end"))
    bottom = len(rows) * step + 16
    parts += [_text(place(x), bottom, number(x), "tick", "middle") for x in (lowest, (lowest + 1) / 2, 1)]
    return _svg(bottom + 6, parts, label)


def paired_bars(rows: list[tuple[str, float | None, float | None, dict | None]], label: str) -> Markup:
    """Two bars from 0 to 1 a row: (name, before, after, difference with "mean", "low" and "high").

    The whisker is the interval of the difference, drawn from where the upper bar ends.
    """
    left, right, step = 64, 116, 46
    span = WIDE - left - right
    parts = []
    for place, (name, before, after, difference) in enumerate(rows):
        y = place * step + 4
        parts.append(_text(left - 8, y + 21, name, "name", "end"))
        for top, value, kind in ((y, before, "base"), (y + 17, after, "student")):
            parts.append(f'<rect x="{left}" y="{top}" width="{span}" height="16" rx="3" class="track"/>')
            if value is not None:
                size = f'width="{max(span * value, 1):.1f}" height="16"'
                parts.append(f'<rect x="{left}" y="{top}" {size} rx="3" class="fill {kind}"/>')
                parts.append(_text(WIDE - 64, top + 13, f"{value:.3f}", "tick", "end"))
        if before is not None and difference is not None:
            low, high = (left + span * min(max(before + difference[key], 0), 1) for key in ("low", "high"))
            whisker = f"M{low:.1f} {y + 25}H{high:.1f}M{low:.1f} {y + 21}v8M{high:.1f} {y + 21}v8"
            parts.append(f'<path d="{whisker}" class="whisker"/>')
        parts.append(_text(WIDE, y + 21, signed(difference["mean"] if difference else None), "value", "end"))
    return _svg(len(rows) * step + 2, parts, label, WIDE)


def columns(
    edges: list[float], counts: list[int], label: str, kind: str, floor: float | None = None
) -> Markup:
    """A histogram in the colour of `kind`; `edges` has one more entry than `counts`.

    With a `floor` the chart is wider, a line marks that value, and what lies below it is grey.
    """
    width, height, bottom = (WIDTH, 150, 20) if floor is None else (WIDE, 250, 20)
    top, low, high = max(counts, default=0) or 1, edges[0], edges[-1]
    parts = [f'<path d="M0 {height - bottom}H{width}" class="axis"/>']

    def place(value: float) -> float:
        return (value - low) / ((high - low) or 1) * width

    for left, right, count in zip(edges, edges[1:], counts, strict=False):
        tall = (height - bottom - 16) * count / top
        x, wide = place(left), max(place(right) - place(left) - 1, 0.5)
        colour = kind if floor is None or left >= floor else "base"
        parts.append(
            f'<rect x="{x:.1f}" y="{height - bottom - tall:.1f}" width="{wide:.1f}" height="{tall:.1f}" '
            f'class="fill {colour}"><title>{number(left)}–{number(right)}: {count:,}</title></rect>'
        )
    parts.append(_text(0, 10, f"most: {top:,}", "tick"))
    for value, anchor in ((low, "start"), ((low + high) / 2, "middle"), (high, "end")):
        parts.append(_text(place(value), height - 5, number(value), "tick", anchor))
    if floor is not None:
        x = place(floor)
        parts.append(f'<path d="M{x:.1f} 6V{height - bottom}" class="mark"/>')
        side, anchor = (6, "start") if x < width * 0.75 else (-6, "end")
        parts.append(_text(x + side, 16, f"kept from {number(floor)}", "tick", anchor))
    return _svg(height, parts, label, width)


def lines(series: list[tuple[str, str, list[tuple[float, float]]]], label: str) -> Markup:
    """Curves over steps; `series` are (name, class, points). The y axis fits the values."""
    width, height, left, bottom, top = WIDE, 270, 34, 24, 10
    points = [point for _, _, own in series for point in own]
    x_high = max(x for x, _ in points) or 1
    y_low, y_high = min(y for _, y in points), max(y for _, y in points)
    y_low, y_high = y_low - 0.05 * (y_high - y_low), y_high + 0.05 * (y_high - y_low) or 1

    def place_x(x: float) -> float:
        return left + (width - left - 8) * x / x_high

    def place_y(y: float) -> float:
        return top + (height - bottom - top) * (1 - (y - y_low) / ((y_high - y_low) or 1))

    parts = []
    for y in _ticks(y_low, y_high):
        parts.append(f'<path d="M{left} {place_y(y):.1f}H{width}" class="gridline"/>')
        parts.append(_text(left - 6, place_y(y) + 4, f"{y:.3g}", "tick", "end"))
    for share, anchor in ((0, "start"), (0.5, "middle"), (1, "end")):
        parts.append(_text(place_x(x_high * share), height - 6, f"{x_high * share:,.0f}", "tick", anchor))
    for _name, kind, own in series:
        path = "L".join(f"{place_x(x):.1f} {place_y(y):.1f}" for x, y in own)
        parts.append(f'<path d="M{path}" class="line {kind}"/>')
        if len(own) <= 60:
            dots = ((place_x(x), place_y(y)) for x, y in own)
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" class="fill {kind}"/>' for x, y in dots]
    return _svg(height, parts, label, width)


def confusion(gold: list[str], answered: list[str], counts: list[list[int]], label: str) -> Markup:
    """A matrix of `counts` (gold, answered), each cell as dark as its share of the row; zeros are empty.

    Cells whose two names are one are in the colour of the student, the others in that of a mistake.
    """
    left, top, high, right = 96, 74, 30, 26
    wide = min((WIDE - left - right) / len(answered), 56)
    parts = []
    for column, name in enumerate(answered):
        x, y = left + (column + 0.5) * wide, top - 8
        turned = f'transform="rotate(-45 {x:.1f} {y})"'
        parts.append(_text(x, y, _short(name), "name").replace("<text ", f"<text {turned} "))
    for row, (name, own) in enumerate(zip(gold, counts, strict=True)):
        y = top + row * high
        parts.append(_text(left - 8, y + high / 2 + 4, _short(name), "name", "end"))
        for column, count in enumerate(own):
            x, share = left + column * wide, count / (sum(own) or 1)
            size = f'width="{wide - 2:.1f}" height="{high - 2}" rx="3"'
            parts.append(f'<rect x="{x:.1f}" y="{y}" {size} class="track"/>')
            if not count:
                continue
            kind, told = "student" if answered[column] == name else "bad", f"{share:.0%}"
            title = f"<title>{escape(name)} → {escape(answered[column])}: {count:,} ({told})</title>"
            shade = f'class="fill {kind}" fill-opacity="{0.18 + 0.82 * share:.2f}"'
            parts.append(f'<rect x="{x:.1f}" y="{y}" {size} {shade}>{title}</rect>')
            if wide >= 20:
                ink = "cell on" if share > 0.45 else "cell"
                parts.append(_text(x + wide / 2 - 1, y + high / 2 + 3, f"{count}", ink, "middle"))
    return _svg(top + high * len(gold) + 4, parts, label, WIDE)


def _short(name: str) -> str:
    return name if len(name) <= 13 else f"{name[:12]}…"


def _ticks(low: float, high: float) -> list[float]:
    """Three to eight round values between `low` and `high`."""
    power = 10 ** math.floor(math.log10((high - low) or 1))
    step = next((power * f for f in (1, 0.5, 0.2) if (high - low) / (power * f) >= 3), power * 0.2)
    return [step * n for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
