"""The page of a scaling study, or of several side by side: curves, and where the efficiency goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from dtrain.errors import EnvironmentProblem
from dtrain.report.figures import COLOURS, INK, colour, draw, part_colour
from dtrain.report.page import document
from dtrain.report.study import PARTS, TARGET, Size, Study

#: Colours of PARTS among those of a step's parts in the style sheet.
PART_COLOURS = (5, 6, 7, 9)


def write(studies: Sequence[Study], to: Path) -> None:
    """Write the page.

    Raises:
        EnvironmentProblem: matplotlib is missing, or the file cannot be written.
    """
    try:
        to.write_text(page(studies), encoding="utf-8")
    except OSError as error:
        raise EnvironmentProblem(
            f"the page cannot be written to {to}: {error.strerror or error}. Choose another folder with --to."
        ) from None


def page(studies: Sequence[Study]) -> str:
    """The page as HTML text."""
    modes = " and ".join(dict.fromkeys(study.mode for study in studies))
    models = " and ".join(dict.fromkeys(study.model for study in studies))
    ranks = [size.ranks for study in studies for size in study.sizes]
    title = f"{modes.capitalize()} scaling of {models}, {_ranks(min(ranks), max(ranks))}"
    drawings = figures(studies)
    cards = "".join(
        f'<figure class="card"><h3>{escape(name)}</h3>{svg}'
        f"<figcaption>{escape(CAPTIONS[name])}</figcaption></figure>"
        for name, svg in drawings.items()
    )
    parts = [
        f'<h2>Curves</h2>{_legend(studies)}<div class="grid">{cards}</div>',
        _results(studies),
        _losses(studies),
        _sums(studies),
        _facts("Settings", studies, [study.settings for study in studies]),
        _facts("Environment", studies, [study.environment() for study in studies]),
    ]
    return document(title, _lead(studies), parts)


# -- curves ----------------------------------------------------------------------------------------------
CAPTIONS = {
    "Throughput": "Images a second, the median over runs of the median over their epochs, tests excluded; "
    "bars from the slowest run to the fastest. Dotted: as many times the fewest ranks' as there are more of "
    "them.",
    "Efficiency": "Images a second for each rank, as a share of what one has on the fewest ranks. Hollow: "
    "more ranks than cores.",
    "A step": "Milliseconds of a step that was profiled kernel by kernel, the mean over its ranks and runs. "
    "Line: its length without any loss.",
    "Where the efficiency goes": "The profiled step as a whole: what it would take without loss, and by how "
    "much each part is longer than that; one that is shorter is not drawn.",
    "Allreduce by size": "Microseconds to sum an array over all ranks as training does it (solid, the number "
    "of ranks beside it), and to exchange as many bytes between two of them (dashed), the network's own "
    "figure.",
    f"Time to {TARGET:.1%} accuracy": "Seconds of training, tests excluded, to the end of the first epoch "
    "with that test accuracy; the median over runs.",
}


def figures(studies: Sequence[Study]) -> dict[str, str]:
    """Title -> SVG text.

    Raises:
        EnvironmentProblem: matplotlib is missing.
    """
    drawings: dict[str, Callable[[Any], bool]] = {
        "Throughput": lambda ax: _throughput(ax, studies),
        "Efficiency": lambda ax: _efficiency(ax, studies),
        "A step": lambda ax: _steps(ax, studies),
        "Where the efficiency goes": lambda ax: _where(ax, studies),
        "Allreduce by size": lambda ax: _allreduce(ax, studies),
        f"Time to {TARGET:.1%} accuracy": lambda ax: _to_target(ax, studies),
    }
    return draw(drawings)


def _ranks_axis(axes: Any, studies: Sequence[Study]) -> None:
    from matplotlib.ticker import NullLocator

    counts = sorted({size.ranks for study in studies for size in study.sizes})
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(n) for n in counts])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(counts[0] / 1.15, counts[-1] * 1.15)
    axes.set_xlabel("ranks")


def _above(axes: Any, text: str) -> None:
    """The unit of the vertical axis."""
    axes.text(0, 1.01, text, transform=axes.transAxes, va="bottom", ha="left")


def _points(axes: Any, study: Study, i: int, value: Callable[[Size], float | None]) -> None:
    """A line through the sizes; hollow where ranks share cores."""
    points = [(size, y) for size in study.sizes if (y := value(size)) is not None]
    if not points:
        return
    axes.plot([s.ranks for s, _ in points], [y for _, y in points], lw=2, c=colour(i), clip_on=False)
    for size, y in points:
        hollow = {"markerfacecolor": "none"} if size.oversubscribed else {}
        axes.plot([size.ranks], [y], marker="o", markersize=7, c=colour(i), clip_on=False, **hollow)


def _throughput(axes: Any, studies: Sequence[Study]) -> bool:
    for i, study in enumerate(studies):
        counts = [size.ranks for size in study.sizes]
        base = study.sizes[0]
        ideal = [base.speed / 1000 * n / base.ranks for n in counts]
        axes.plot(counts, ideal, ls=(0, (1, 2)), lw=1.2, c=colour(i), clip_on=False)
        _points(axes, study, i, lambda size: size.speed / 1000)
        for size in study.sizes:
            low, high = min(size.speeds) / 1000, max(size.speeds) / 1000
            axes.plot([size.ranks] * 2, [low, high], lw=1.2, c=colour(i), clip_on=False)
    axes.set_ylim(bottom=0)
    _above(axes, "1,000 images a second")
    _ranks_axis(axes, studies)
    return True


def _efficiency(axes: Any, studies: Sequence[Study]) -> bool:
    if all(len(study.sizes) < 2 for study in studies):
        return False
    axes.axhline(100, ls=(0, (1, 2)), lw=1.2, c=INK)
    for i, study in enumerate(studies):
        _points(axes, study, i, lambda size, study=study: 100 * study.efficiency(size))  # type: ignore[misc]  # a lambda's default
    axes.set_ylim(0, 1.05 * max(100, *(100 * s.efficiency(size) for s in studies for size in s.sizes)))
    _above(axes, "% of the fewest ranks'")
    _ranks_axis(axes, studies)
    return True


def _bars(
    axes: Any, studies: Sequence[Study], stacks: Callable[[Study, Size], Sequence[tuple[float, str]]]
) -> bool:
    """A bar for each study and size, the studies of one size side by side."""
    counts = sorted({size.ranks for study in studies for size in study.sizes if size.parts_ms})
    width = 0.7 / len(studies)
    for i, study in enumerate(studies):
        for size in study.sizes:
            if not size.parts_ms:
                continue
            x = counts.index(size.ranks) + (i - (len(studies) - 1) / 2) * width
            bottom = 0.0
            for height, fill in stacks(study, size):
                if height > 0:
                    axes.bar([x], [height], 0.9 * width, bottom=bottom, color=fill)
                    bottom += height
            if len(studies) > 1:
                axes.plot([x], [bottom], marker="v", markersize=5, c=colour(i), clip_on=False)
    axes.set_xticks(range(len(counts)), [str(n) for n in counts])
    axes.set_xlabel("ranks")
    axes.grid(axis="x", visible=False)
    return bool(counts)


def _steps(axes: Any, studies: Sequence[Study]) -> bool:
    def stack(study: Study, size: Size) -> list[tuple[float, str]]:
        return [(size.parts_ms[p], part_colour(c)) for p, c in zip(PARTS, PART_COLOURS, strict=True)]

    drawn = _bars(axes, studies, stack)
    counts = sorted({size.ranks for study in studies for size in study.sizes if size.parts_ms})
    width = 0.7 / len(studies)
    for i, study in enumerate(studies):
        whole = sum(study.sizes[0].parts_ms.values())
        for size in study.sizes:
            if size.parts_ms and whole:
                x = counts.index(size.ranks) + (i - (len(studies) - 1) / 2) * width
                y = whole * study.ideal(size)
                axes.plot([x - 0.5 * width, x + 0.5 * width], [y, y], lw=1.6, c=INK)
    _above(axes, "ms a step")
    return drawn


def _where(axes: Any, studies: Sequence[Study]) -> bool:
    def stack(study: Study, size: Size) -> list[tuple[float, str]]:
        lost = study.lost(size)
        fills = [part_colour(c) for c in PART_COLOURS]
        kept = 1 - sum(lost.values())
        return [
            (100 * kept, part_colour(8)),
            *((100 * lost[p], f) for p, f in zip(PARTS, fills, strict=True)),
        ]

    drawn = any(len(study.sizes) > 1 and study.sizes[0].parts_ms for study in studies)
    if drawn:
        _bars(axes, studies, stack)
        _above(axes, "% of a step")
    return drawn


def _allreduce(axes: Any, studies: Sequence[Study]) -> bool:
    drawn = False
    for i, study in enumerate(studies):
        for size in study.sizes:
            if not size.sums:
                continue
            drawn = True
            # the more ranks, the thicker
            width = 1 + 1.5 * study.sizes.index(size) / max(1, len(study.sizes) - 1)
            sizes = [of["bytes"] for of in size.sums]
            times = [1e6 * of.get("bucket", of["mpi"]) for of in size.sums]
            axes.plot(sizes, times, lw=width, marker="o", markersize=4, c=colour(i), clip_on=False)
            axes.text(sizes[-1], times[-1], f" {size.ranks}", va="center", ha="left")
        fewest = next((size for size in study.sizes if size.sums), None)
        if fewest:
            times = [1e6 * of["exchange"] for of in fewest.sums]
            axes.plot(
                [of["bytes"] for of in fewest.sums], times, lw=1.4, ls=(0, (3, 1.5)), c=INK, clip_on=False
            )
    if drawn:
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        ticks = sorted({of["bytes"] for study in studies for size in study.sizes for of in size.sums})
        axes.set_xticks(ticks, [_bytes(n) for n in ticks])
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.minorticks_off()
        axes.set_xlabel("bytes on each rank")
        _above(axes, "microseconds")
    return drawn


def _to_target(axes: Any, studies: Sequence[Study]) -> bool:
    for i, study in enumerate(studies):
        _points(axes, study, i, lambda size: size.to_target)
    if not axes.lines:
        return False
    axes.set_ylim(bottom=0)
    _above(axes, "seconds")
    _ranks_axis(axes, studies)
    return True


# -- words and tables ------------------------------------------------------------------------------------
def _ranks(low: int, high: int) -> str:
    if low == high:
        return f"{low} rank" if low == 1 else f"{low} ranks"
    return f"{low} to {high} ranks"


def _bytes(n: int) -> str:
    return f"{n >> 20} MiB" if n >= 1 << 20 else f"{n >> 10} KiB" if n >= 1024 else f"{n} B"


def _swatch(fill: str) -> str:
    return f'<span class="swatch" style="background:var(--{fill})"></span>'


def _name(studies: Sequence[Study], i: int) -> str:
    return f"{_swatch(f'run{i % COLOURS}')}{escape(studies[i].name)}"


def _legend(studies: Sequence[Study]) -> str:
    names = "".join(f"<span>{_name(studies, i)}</span>" for i in range(len(studies)))
    parts = "".join(
        f"<span>{_swatch(f'part{c}')}{escape(part)}</span>"
        for part, c in zip(PARTS, PART_COLOURS, strict=True)
    )
    return f'<div class="legend">{names}{parts}<span>{_swatch("part8")}without loss</span></div>'


def _lead(studies: Sequence[Study]) -> str:
    """The result in sentences, with what explains it."""
    said = []
    for study in studies:
        base, last = study.sizes[0], study.sizes[-1]
        if base is last:
            continue
        # the last size that has its cores to itself says more than one that does not
        told = next((size for size in reversed(study.sizes[1:]) if not size.oversubscribed), last)
        text = (
            f"<b>{escape(study.name)}</b>: {_ranks(told.ranks, told.ranks)} train "
            f"{told.speed / base.speed:.2f} times as fast as {base.ranks}, an efficiency of "
            f"{study.efficiency(told):.0%}."
        )
        if lost := study.lost(told):
            worst = sorted(((share, part) for part, share in lost.items() if share >= 0.005), reverse=True)
            does = "did not shrink with the ranks" if study.mode == "strong" else "grew with the ranks"
            text += f" Of a profiled step {1 - sum(lost.values()):.0%} is what it would take without any loss"
            if worst:
                parts = [f"{share:.0%} {escape(part)}" for share, part in worst]
                text += f"; the rest is what {does}: {', '.join(parts)}"
            text += "."
        if last.oversubscribed:
            text += (
                f" On {last.ranks} ranks the {last.cores} cores are oversubscribed, "
                f"{last.ranks / last.cores:g} ranks a core, so no more than {last.cores} can work at once."
            )
        said.append(f"<p>{text}</p>")
        if busy := study.busy():
            said.append(f'<p class="note warning">{escape(busy)}</p>')
    return "".join(said)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """HTML: the first column is of text, the others of numbers; cells are HTML."""
    top = "".join(f'<th class="n">{escape(name)}</th>' for name in head[1:])
    body = "".join(
        f'<tr><th scope="row" class="name">{first}</th>'
        + "".join(f'<td class="n">{cell}</td>' for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )
    return (
        f'<div class="card scroll"><table><thead><tr><th>{escape(head[0])}</th>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _each(studies: Sequence[Study]) -> list[tuple[str, Study, Size]]:
    """Each size with its name for a row."""
    return [
        (f"{_name(studies, i)}, " * (len(studies) > 1) + _ranks(size.ranks, size.ranks), study, size)
        for i, study in enumerate(studies)
        for size in study.sizes
    ]


def _results(studies: Sequence[Study]) -> str:
    rows = []
    for name, study, size in _each(studies):
        reached = sum(s is not None for s in size.seconds_to_target)
        times = f"{size.to_target:.2f}" if size.to_target is not None else "–"
        many = f" ({reached} of {len(size.speeds)} runs)" if reached < len(size.speeds) else ""
        rows.append(
            [
                name,
                f"{size.nodes}",
                f"{size.cores}" + (", oversubscribed" if size.oversubscribed else ""),
                f"{size.batch_size:,}",
                f"{size.speed:,.0f}",
                f"{min(size.speeds):,.0f} to {max(size.speeds):,.0f}",
                f"{size.step_ms:.3f}",
                f"{size.speed / study.sizes[0].speed:.2f}",
                f"{study.efficiency(size):.0%}",
                times + many,
                f"{min(size.accuracy):.4f} to {max(size.accuracy):.4f}",
            ]
        )
    head = [
        "",
        "nodes",
        "cores",
        "global batch",
        "images/s",
        "of the runs",
        "ms a step",
        "speed-up",
        "efficiency",
    ]
    return "<h2>Results</h2>" + _table([*head, f"s to {TARGET:.1%}", "test accuracy"], rows)


def _losses(studies: Sequence[Study]) -> str:
    rows = []
    for name, study, size in _each(studies):
        if not size.parts_ms:
            continue
        lost = study.lost(size)
        step = sum(size.parts_ms.values())
        cells = [
            f"{size.parts_ms[p]:.3f} ({lost[p]:+.0%})" if lost else f"{size.parts_ms[p]:.3f}" for p in PARTS
        ]
        rows.append([name, f"{step:.3f}", *cells, f"{1 - sum(lost.values()):.0%}"])
    if not rows:
        return ""
    return (
        '<h2>Where the time goes</h2><p class="soft">ms of a profiled step and of its parts; in brackets by '
        "which share of the step a part is longer than it would be without loss. With the efficiency, these "
        "shares add up to 100%. A profiled step runs its kernels one by one, each between two looks at the "
        "clock, so it is longer than those of the table above.</p>"
        + _table(["", "a step", *PARTS, "efficiency"], rows)
    )


def _sums(studies: Sequence[Study]) -> str:
    rows = []
    for name, _, size in _each(studies):
        for of in size.sums:
            taken = of.get("bucket", of["mpi"])
            rows.append(
                [
                    name,
                    _bytes(of["bytes"]),
                    f"{1e6 * taken:.1f}",
                    f"{of['bytes'] / taken / 1e9:.2f}",
                    f"{1e6 * of['mpi']:.1f}",
                    f"{1e6 * of['exchange']:.1f}",
                    f"{taken / of['exchange']:.2f}",
                ]
            )
    if not rows:
        return ""
    between = ", ".join(dict.fromkeys(s.between for study in studies for s in study.sizes if s.sums))
    head = ["", "bytes", "sum, us", "GB/s", "MPI's allreduce, us", "exchange, us", "sum / exchange"]
    return (
        "<h2>Allreduce against the network</h2>"
        f'<p class="soft">The exchange is of as many bytes between two {escape(between)}. Over a network no '
        "sum of N ranks takes less than 2(N−1)/N exchanges of its size (Patarasuk and Yuan, 2009).</p>"
        + _table(head, rows)
    )


def _facts(title: str, studies: Sequence[Study], facts: Sequence[dict[str, Any]]) -> str:
    """Facts of each study in a column; a row whose values differ is marked."""
    names = list(dict.fromkeys(name for each in facts for name in each))
    rows = ""
    for name in names:
        values = [str(each.get(name, "–")) for each in facts]
        cells = "".join(f"<td>{escape(value)}</td>" for value in values)
        differs = " class=differs" if len(set(values)) > 1 else ""
        rows += f'<tr{differs}><th scope="row">{escape(str(name))}</th>{cells}</tr>'
    head = "".join(f"<th>{_name(studies, i)}</th>" for i in range(len(studies)))
    return (
        f'<h2>{title}</h2><div class="card scroll"><table class="facts"><thead><tr><th></th>{head}</tr>'
        f"</thead><tbody>{rows}</tbody></table></div>"
    )
