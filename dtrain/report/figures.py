"""The curves, drawn by matplotlib as SVG whose colours and fonts are the page's."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dtrain.errors import EnvironmentProblem
from dtrain.hints import pip_install
from dtrain.report.runs import Run

#: Colours that stand for variables of the page's style sheet, so that one drawing is right in light and dark.
INK, GRID = "#fe00f0", "#fe00f1"
#: Colours of runs in the style sheet; more runs begin again.
COLOURS = 8

SIZE = (4.3, 2.7)  # inches of 72 units


def matplotlib_module() -> Any:
    """matplotlib; raises EnvironmentProblem where it is missing."""
    try:
        import matplotlib
        import matplotlib.figure
    except ImportError:
        raise EnvironmentProblem(
            "the page is drawn with matplotlib, which is not installed: "
            f"{pip_install('dtrain[report]')}, then run this again."
        ) from None
    return matplotlib


def draw(drawings: Mapping[str, Callable[[Any], bool]]) -> dict[str, str]:
    """Title -> SVG text of each drawing: a function of its axes that says whether it has anything to show.

    Raises:
        EnvironmentProblem: matplotlib is missing.
    """
    matplotlib = matplotlib_module()
    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": "dtrain",
        "text.parse_math": False,
        "font.size": 9.5,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": GRID,
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "grid.color": GRID,
        "grid.linewidth": 0.7,
        "xtick.color": INK,
        "ytick.color": INK,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "xtick.minor.size": 0,
        "ytick.minor.size": 0,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.grid": True,
        "axes.axisbelow": True,
    }
    result = {}
    with matplotlib.rc_context(style):
        for k, (title, drawing) in enumerate(drawings.items()):
            figure = matplotlib.figure.Figure(figsize=SIZE)
            axes = figure.add_axes((0.12, 0.17, 0.86, 0.78))
            if drawing(axes):
                result[title] = _svg(figure, title, k)
    return result


def figures(runs: Sequence[Run]) -> dict[str, str]:
    """Title -> SVG text of each curve that the runs have values for.

    Raises:
        EnvironmentProblem: matplotlib is missing.
    """
    epochs: Callable[[Run], list[float]] = lambda run: [float(e["epoch"]) for e in run.epochs]  # noqa: E731
    return draw(
        {
            "Loss by epoch": lambda ax: _curves(ax, runs, epochs, "loss", "epoch"),
            "Accuracy by epoch": lambda ax: _curves(ax, runs, epochs, "accuracy", "epoch"),
            "Loss by time": lambda ax: _curves(ax, runs, Run.times, "loss", "seconds of training"),
            "Accuracy by time": lambda ax: _curves(ax, runs, Run.times, "accuracy", "seconds of training"),
            "Throughput": lambda ax: _throughput(ax, runs, epochs),
            "Speed-up": lambda ax: _speed_up(ax, runs),
        }
    )


def colour(i: int) -> str:
    """That of the i-th run."""
    return f"#fe{i % COLOURS:02x}f2"


def part_colour(i: int) -> str:
    """That of the i-th part of a step."""
    return f"#fd{i % 10:02x}f2"


def _curves(axes: Any, runs: Sequence[Run], xs: Callable[[Run], list[float]], name: str, label: str) -> bool:
    """Training dashed, the test solid. By epochs runs may lie on one another: the earlier are thicker."""
    drawn = False
    for i, run in enumerate(runs):
        width = 1.8 + (1.7 * min(len(runs) - 1 - i, 4) if label == "epoch" else 0)
        for column, line in ((name, (0, (3, 1.5))), (f"{run.tested}_{name}", "-")):
            points = [(x, y) for x, y in zip(xs(run), run.column(column), strict=True) if y is not None]
            if points:
                drawn = True
                tests = line == "-"
                marks = {"marker": "o", "markersize": width + 2} if tests or len(points) == 1 else {}
                thickness = width if tests else 0.7 * width
                axes.plot(
                    *zip(*points, strict=True), ls=line, lw=thickness, c=colour(i), clip_on=False, **marks
                )
    _x_axis(axes, label)
    return drawn


def _throughput(axes: Any, runs: Sequence[Run], xs: Callable[[Run], list[float]]) -> bool:
    drawn = False
    for i, run in enumerate(runs):
        column = run.column("images_per_second")
        points = [(x, y / 1000) for x, y in zip(xs(run), column, strict=True) if y is not None]
        if points:
            drawn = True
            axes.plot(*zip(*points, strict=True), lw=2, marker="o", c=colour(i), clip_on=False)
    axes.set_ylim(bottom=0)
    axes.text(0, 1, "1,000 images a second", transform=axes.transAxes, va="bottom", ha="left")
    _x_axis(axes, "epoch")
    return drawn


def _speed_up(axes: Any, runs: Sequence[Run]) -> bool:
    """Of runs of the same work: how much faster than the one with the fewest ranks, and the ideal."""
    points = [(run.ranks, gain, i) for i, run in enumerate(runs) if (gain := speed_up(run, runs)) is not None]
    counts = sorted({ranks for ranks, _, _ in points})
    if len(counts) < 2:
        return False
    low, high = counts[0], counts[-1]
    axes.plot([low, high], [1, high / low], ls=(0, (1, 2)), lw=1.2, c=INK, clip_on=False)
    axes.text(high, high / low, "ideal", va="bottom", ha="right")
    for ranks, gain, i in points:
        axes.plot([ranks], [gain], marker="o", markersize=9, c=colour(i), clip_on=False)
    axes.set_xticks(counts)
    axes.set_ylim(0, 1.15 * max(high / low, *(gain for _, gain, _ in points)))
    axes.set_xlabel("ranks")
    axes.text(0, 1, f"times as fast as {_ranks(low)}", transform=axes.transAxes, va="bottom", ha="left")
    return True


def _ranks(n: int) -> str:
    return f"{n} rank" if n == 1 else f"{n} ranks"


def work(run: Run) -> tuple[Any, ...]:
    """What two runs have to share for their speeds to be compared."""
    return tuple(str(run.header.get(name)) for name in ("model", "batch_size", "optimizer", "data_digest"))


def speed_up(run: Run, runs: Sequence[Run]) -> float | None:
    """How many times as fast as the run with the fewest ranks of those that do the same work."""
    same = [other for other in runs if work(other) == work(run) and other.speed]
    if not run.speed or len(same) < 2:
        return None
    base = min(same, key=lambda other: other.ranks)
    assert base.speed
    return run.speed / base.speed


def _x_axis(axes: Any, label: str) -> None:
    """Whole epochs, or seconds from 0."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=label == "epoch", min_n_ticks=1))
    if label != "epoch":
        axes.set_xlim(left=0)


def _svg(figure: Any, title: str, k: int) -> str:
    """The figure as SVG for the inside of a page: its names are its own, its colours and font the page's."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    out = io.StringIO()
    canvas: Any = FigureCanvasSVG(figure)
    canvas.print_svg(out, metadata={"Date": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", text, flags=re.S)
    box = re.search(r'viewBox="[^"]*"', text)
    assert box
    text = f'<svg {box[0]} role="img" aria-label="{title}">' + text[text.index(">") + 1 :]
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r'(id="|href="#|url\(#)(?=[a-z])', rf"\g<1>f{k}", text)
    text = re.sub(r"font(-size)?: ([\d.]+px)( [^;\"]*|; font-family: [^;\"]*)", r"font-size: \2", text)
    text = text.replace(INK, "var(--soft)").replace(GRID, "var(--line)")
    text = re.sub(r"#fe([0-9a-f]{2})f2", lambda match: f"var(--run{int(match[1], 16)})", text)
    text = re.sub(r"#fd([0-9a-f]{2})f2", lambda match: f"var(--part{int(match[1], 16)})", text)
    return re.sub(r"\n\s*", "\n", text).strip()
