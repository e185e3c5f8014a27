"""A picture of what each mdev drew, over the time, and of what was changed meanwhile: SVG, for light and dark pages."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, log10

from gpu_shares import NAMES, Course, rates

_WIDTH, _HEIGHT = 1000, 460
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 84, 56
"""Around the plot."""
_SMOOTH = 2
"""Samples that a rate is over."""
_UNIT = 1e6
_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f; }
.title { font-size: 16px; font-weight: 600; }
.paper { fill: #ffffff; }
.grid { stroke: #d0d7de; stroke-width: 1; }
.change { stroke: #6e7781; stroke-width: 1; stroke-dasharray: 4 3; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.a { stroke: #0969da; } .b { stroke: #bc4c00; } .c { stroke: #1a7f37; }
.sum { stroke: #6e7781; stroke-width: 1.2; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .paper { fill: #0d1117; }
  .grid { stroke: #30363d; }
  .change { stroke: #8b949e; }
  .a { stroke: #58a6ff; } .b { stroke: #f0883e; } .c { stroke: #3fb950; }
  .sum { stroke: #8b949e; }
}
"""


@dataclass(frozen=True)
class _Line:
    kind: str
    name: str
    values: Sequence[float]


@dataclass(frozen=True)
class _Axes:
    """From seconds and units to places in the picture."""

    seconds: float
    most: float

    def x(self, at: float) -> float:
        return round(_LEFT + at / self.seconds * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        return round(_HEIGHT - _BOTTOM - value / self.most * (_HEIGHT - _TOP - _BOTTOM), 1)


def svg(course: Course, title: str) -> str:
    """The whole file."""
    times, lines = _lines(course)
    step = _step(max(max(each.values) for each in lines))
    most = step * ceil(max(max(each.values) for each in lines) / step)
    axes = _Axes(course.samples[-1].at, most)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{title}">',
        f"<style>{_STYLE}</style>",
        f'<rect class="paper" width="{_WIDTH}" height="{_HEIGHT}"/>',
        _text(_LEFT, 24, title, "title"),
        *_grid(axes, step),
        *_changes(course, axes),
        *(_path(each, times, axes) for each in lines),
        *_legend(lines),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _lines(course: Course) -> tuple[list[float], list[_Line]]:
    """A rate is over some samples, and stands in their middle."""
    pairs = list(zip(course.samples, course.samples[_SMOOTH:], strict=False))
    drawn = [[value / _UNIT for value in rates(*pair)] for pair in pairs]
    times = [(before.at + after.at) / 2 for before, after in pairs]
    each = [_Line(name.lower(), name, [row[at] for row in drawn]) for at, name in enumerate(NAMES)]
    return times, [_Line("sum", "all three", [sum(row) for row in drawn]), *each]


def _step(most: float) -> float:
    """Of the axis: 1, 2 or 5 times a power of ten, so that there are some lines."""
    power = 10.0 ** int(log10(most / 4))
    return next((factor * power for factor in (1, 2, 5) if factor * power >= most / 6), 10 * power)


def _grid(axes: _Axes, step: float) -> Iterator[str]:
    bottom = _HEIGHT - _BOTTOM
    for number in range(round(axes.most / step) + 1):
        y = axes.y(number * step)
        yield _stroke("grid", (_LEFT, y), (_WIDTH - _RIGHT, y))
        yield _text(_LEFT - 8, y + 4, f"{number * step:g}", anchor="end")
    for second in range(int(axes.seconds) + 1):
        yield _stroke("grid", (axes.x(second), bottom), (axes.x(second), bottom + 5))
        yield _text(axes.x(second), bottom + 20, f"{second}", anchor="middle")
    yield _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 14, "seconds", anchor="middle")
    middle = (_TOP + bottom) / 2
    turned = f' transform="rotate(-90 18 {middle})"'
    yield f'<text x="18" y="{middle}" text-anchor="middle"{turned}>million pixels a second</text>'


def _changes(course: Course, axes: _Axes) -> Iterator[str]:
    """Each is named where it was made, above the plot."""
    for change in course.changes:
        x = axes.x(change.at)
        yield _stroke("change", (x, _TOP - 12), (x, _HEIGHT - _BOTTOM))
        yield _text(x + 4, _TOP - 10, change.what)


def _path(line: _Line, times: Sequence[float], axes: _Axes) -> str:
    points = " ".join(f"{axes.x(at)},{axes.y(value)}" for at, value in zip(times, line.values, strict=True))
    return f'<polyline class="line {line.kind}" points="{points}"/>'


def _legend(lines: Sequence[_Line]) -> Iterator[str]:
    x = _LEFT
    for each in [*lines[1:], lines[0]]:
        yield _stroke(f"line {each.kind}", (x, 44), (x + 22, 44))
        yield _text(x + 28, 48, each.name)
        x += 64


def _stroke(kind: str, start: tuple[float, float], end: tuple[float, float]) -> str:
    return f'<line class="{kind}" x1="{start[0]}" y1="{start[1]}" x2="{end[0]}" y2="{end[1]}"/>'


def _text(x: float, y: float, what: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" class="{kind}" text-anchor="{anchor}">{what}</text>'
