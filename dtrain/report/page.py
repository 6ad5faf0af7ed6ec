"""The page: what runs did, side by side. Everything that comes from a file is escaped."""

from __future__ import annotations

import base64
import struct
import time
import zlib
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from dtrain import __version__
from dtrain.errors import EnvironmentProblem
from dtrain.report.figures import COLOURS, figures, speed_up, work
from dtrain.report.runs import Run, number, read_all
from dtrain.report.style import STYLE

#: No scripts, and nothing is loaded from anywhere, whatever a run's files hold.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

#: Facts of the header that say where a run was made, and what they are called.
ENVIRONMENT = {
    "version": "dtrain",
    "ranks": "ranks",
    "nodes": "nodes",
    "hosts": "hosts",
    "devices": "devices",
    "mpi": "MPI",
    "averaging": "averaging",
    "dataset": "data set",
    "data_digest": "digest of the data",
    "parameters": "parameters",
}
#: Options that differ between any two runs and say nothing.
NOT_COMPARED = ("run_dir",)


def write(paths: Sequence[str], to: Path) -> str:
    """Write the report on these run directories; returns what to print.

    Raises:
        UsageError: one of them is no run directory.
        EnvironmentProblem: matplotlib is missing, or the file cannot be written.
    """
    runs = read_all(paths)
    data = page(runs).encode(errors="replace")  # a name of a file may be no text
    try:
        to.write_bytes(data)
    except OSError as error:
        raise EnvironmentProblem(
            f"the report cannot be written to {to}: {error.strerror or error}. Choose another file with --to."
        ) from None
    return f"{to}: {_count(len(runs), 'run')}, {len(data) / 1000:,.0f} kB; open it in any browser"


def page(runs: Sequence[Run]) -> str:
    """The report as HTML text."""
    parts = [
        _glance(runs),
        _curves(runs),
        _steps(runs),
        _confusion(runs),
        _table("Configuration", runs, [dict(run.config) for run in runs], NOT_COMPARED),
        _table("Environment", runs, [_environment(run) for run in runs], ()),
    ]
    models = _several(run.header.get("model") for run in runs)
    title = f"{_count(len(runs), 'run')}" + (f" of {models}" if models else "")
    return document(title, _lead(runs), parts)


def document(title: str, lead: str, parts: Sequence[str]) -> str:
    """A page as HTML text: its title as text, what follows as HTML."""
    made = time.strftime("%Y-%m-%d %H:%M")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{_e(title)} · dtrain report</title>\n"
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{STYLE}</style></head>\n<body><main>\n<h1>{_e(title)}</h1>\n{lead}\n"
        + "\n".join(part for part in parts if part)
        + f"\n<footer>Made by dtrain {_e(__version__)} on {made}.</footer>\n</main></body></html>\n"
    )


# -- pieces ----------------------------------------------------------------------------------------------
def _e(value: Any) -> str:
    return escape(str(value), quote=True)


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def _several(values: Any) -> str:
    return ", ".join(dict.fromkeys(str(v) for v in values if v is not None))


def _swatch(i: int) -> str:
    return f'<span class="swatch" style="background:var(--run{i % COLOURS})"></span>'


def _name(i: int, run: Run) -> str:
    return f"{_swatch(i)}{_e(run.name)}"


def _format(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _legend(runs: Sequence[Run], more: str = "") -> str:
    names = "".join(f"<span>{_name(i, run)}</span>" for i, run in enumerate(runs))
    return f'<div class="legend">{names}{more}</div>'


def _lead(runs: Sequence[Run]) -> str:
    """The result in a sentence or two."""
    sentences = []
    gains = [(gain, run) for run in runs if (gain := speed_up(run, runs)) is not None]
    if len({run.ranks for _, run in gains}) > 1:
        gain, fastest = max(gains, key=lambda pair: pair[0])
        base = min((run for _, run in gains if work(run) == work(fastest)), key=lambda run: run.ranks)
        name, few = (f"<b>{_e(run.name)}</b> ({_count(run.ranks, 'rank')})" for run in (fastest, base))
        sentences.append(
            f"No run is faster than {few}."
            if fastest is base
            else f"{name} is the fastest: {gain:.2f} times the speed of {few}."
        )
    scores = [(score, run) for run in runs if (score := run.last("test_accuracy")) is not None]
    if len(scores) > 1:
        low, high = min(scores, key=lambda s: s[0]), max(scores, key=lambda s: s[0])
        sentences.append(
            f"Test accuracy is {low[0]:.4f} to {high[0]:.4f}, best in <b>{_e(high[1].name)}</b>."
        )
    elif scores:
        sentences.append(f"Test accuracy is {scores[0][0]:.4f}.")
    return f"<p>{' '.join(sentences)}</p>" if sentences else ""


def _glance(runs: Sequence[Run]) -> str:
    columns: list[tuple[str, Callable[[Run], float | None], str, Callable[..., Any] | None]] = [
        ("test accuracy", lambda run: run.last("test_accuracy"), ".4f", max),
        ("validation accuracy", lambda run: run.last("validation_accuracy"), ".4f", max),
        ("images/s", lambda run: run.speed, ",.0f", max),
        ("speed-up", lambda run: speed_up(run, runs), ".2f", None),
        ("s an epoch", _epoch_seconds, ".2f", min),
        ("communication", _communication, ".0%", None),
        ("test loss", lambda run: run.last("test_loss"), ".4f", min),
        ("validation loss", lambda run: run.last("validation_loss"), ".4f", min),
        ("train loss", lambda run: run.last("loss"), ".4f", min),
    ]
    if not any(run.tested == "validation" for run in runs):
        columns = [column for column in columns if not column[0].startswith("validation")]
    head = "".join(f'<th class="n">{name}</th>' for name, _, _, _ in columns)
    best = {}
    for name, value, form, choose in columns:
        values = [v for run in runs if (v := value(run)) is not None]
        if choose and len(runs) > 1 and values:
            best[name] = format(choose(values), form)
    rows = []
    for i, run in enumerate(runs):
        cells = ""
        for name, value, form, _ in columns:
            text = _format(value(run), form)
            cells += f'<td class="n{" best" if best.get(name) == text else ""}">{text}</td>'
        rows.append(
            f'<tr><th scope="row">{_name(i, run)}</th><td class="n">{run.ranks}</td>{cells}'
            f"<td>{_e(_several([run.header.get('model'), run.header.get('optimizer')])) or '–'}</td>"
            f"<td>{_state(run)}</td></tr>"
        )
    notes = ""
    for i, run in enumerate(runs):
        if run.header.get("warning"):
            notes += f'<p class="note warning">{_name(i, run)}: {_e(run.header["warning"])}</p>'
        notes += "".join(f'<p class="note">{_name(i, run)}: {_e(note)}</p>' for note in run.notes)
    return (
        '<h2>At a glance</h2><div class="card scroll"><table class="glance"><thead><tr><th>run</th>'
        f'<th class="n">ranks</th>{head}<th>model</th><th>state</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{notes}"
    )


def _epoch_seconds(run: Run) -> float | None:
    times = run.times()
    return times[-1] / len(times) if times and times[-1] else None


def _communication(run: Run) -> float | None:
    shares = [share for share in run.column("communication_fraction") if share is not None]
    return sum(shares) / len(shares) if shares else None


def _state(run: Run) -> str:
    wanted = number(run.header.get("epochs"))
    of = f" of {wanted:.0f}" if wanted else ""
    if run.done:
        return f"{_count(len(run.epochs), 'epoch')}, {_format(number(run.done.get('seconds')), '.1f')} s"
    return f"not ended, {len(run.epochs)}{of} epochs"


def _curves(runs: Sequence[Run]) -> str:
    drawings = figures(runs)
    if not drawings:
        return '<h2>Curves</h2><p class="soft">No epoch has ended yet.</p>'
    cards = "".join(f'<div class="card"><h3>{_e(title)}</h3>{svg}</div>' for title, svg in drawings.items())
    tested = " or ".join(sorted({run.tested for run in runs}))
    lines = (
        f'<span><span class="line"></span>{tested}</span>'
        '<span><span class="line dashed"></span>training</span>'
    )
    return f'<h2>Curves</h2>{_legend(runs, lines)}<div class="grid">{cards}</div>'


# -- where the time goes ---------------------------------------------------------------------------------
def _steps(runs: Sequence[Run]) -> str:
    """Bars of one scale: a step's time by part where it was recorded, else by the epochs' averages."""
    bars = [_bar(run) for run in runs]
    longest = max((sum(ms for _, ms in bar) for bar in bars), default=0.0)
    if not longest:
        return ""
    names = list(dict.fromkeys(name for bar in bars for name, _ in bar))
    known = [name for run in runs for name in run.profile.get("parts_ms", {})]
    order = {name: i for i, name in enumerate(dict.fromkeys(known))}
    names.sort(key=lambda name: order.get(name, len(order)))
    colour = {
        name: f"var(--part{(order[name] if name in order else 9 - i) % 10})" for i, name in enumerate(names)
    }
    if "computing" in colour:  # of a run without a profile
        colour |= {"computing": "var(--part0)", "communication": "var(--part6)"}
    rows = ""
    for i, (run, bar) in enumerate(zip(runs, bars, strict=True)):
        total = sum(ms for _, ms in bar)
        if not total:
            continue
        pieces = "".join(
            f'<span class="{"waits" if "waiting" in name else ""}" title="{_e(name)}: {ms:.3f} ms, '
            f'{ms / total:.1%}" style="flex:0 0 {100 * ms / longest:.3f}%;'
            f'background-color:{colour[name]}"></span>'
            for name, ms in bar
        )
        about = "recorded" if run.profile else "by the epochs' averages"
        rows += (
            f'<div><b>{_name(i, run)}</b> <span class="soft">{_count(run.ranks, "rank")}, {total:.3f} ms a '
            f'step, {about}</span></div><div class="bar bars">{pieces}</div>{_slow(run)}'
        )
    legend = "".join(
        f'<span><span class="swatch{" waits" if "waiting" in name else ""}" '
        f'style="background-color:{colour[name]}"></span>{_e(name)}</span>'
        for name in names
    )
    return (
        f'<h2>Where a step\'s time goes</h2><div class="card">{rows}<div class="legend">{legend}</div>'
        f"{_numbers(runs, names, bars)}{_kernels(runs)}</div>"
    )


def _bar(run: Run) -> list[tuple[str, float]]:
    """(part, ms a step), the mean over the ranks."""
    if run.profile:
        parts = run.profile["parts_ms"].items()
        return [(str(name), sum(each) / len(each)) for name, each in parts if any(each)]
    steps, seconds, share = (
        number(run.header.get("iterations_per_epoch")),
        _epoch_seconds(run),
        _communication(run),
    )
    if not steps or not seconds or share is None:
        return []
    ms = 1000 * seconds / steps
    return [("computing", ms * (1 - share)), *([("communication", ms * share)] if share else [])]


def _slow(run: Run) -> str:
    slow, work_ms, hosts = (run.profile.get(name) for name in ("slowest", "work_ms", "hosts"))
    if not isinstance(slow, int) or not isinstance(work_ms, list) or not 0 <= slow < len(work_ms):
        return ""
    times = [number(ms) or 0.0 for ms in work_ms]
    where = f" on {_e(hosts[slow])}" if isinstance(hosts, list) and slow < len(hosts) else ""
    others = (sum(times) - times[slow]) / max(len(times) - 1, 1)
    return (
        f'<p class="note warning">Rank {slow}{where} is slow: it works {times[slow]:.3f} ms a step, the '
        f"others {others:.3f} ms.</p>"
    )


def _numbers(runs: Sequence[Run], names: Sequence[str], bars: Sequence[list[tuple[str, float]]]) -> str:
    head = "".join(f'<th class="n">{_name(i, run)}</th>' for i, run in enumerate(runs))
    rows = ""
    for name in names:
        cells = "".join(f'<td class="n">{_format(dict(bar).get(name), ".3f")}</td>' for bar in bars)
        rows += f'<tr><th scope="row">{_e(name)}</th>{cells}</tr>'
    return (
        '<details><summary>in ms a step</summary><div class="scroll"><table><thead><tr><th></th>'
        f"{head}</tr></thead><tbody>{rows}</tbody></table></div></details>"
    )


def _kernels(runs: Sequence[Run]) -> str:
    """The longest kernels of each recorded run."""
    result = ""
    for i, run in enumerate(runs):
        kernels = run.profile.get("kernels")
        rows = ""
        for kernel in kernels if isinstance(kernels, list) else ():
            if isinstance(kernel, dict) and (ms := number(kernel.get("ms"))) is not None:
                rows += (
                    f'<tr><td class="n">{ms:.3f}</td><td><code>{_e(kernel.get("name", ""))}</code></td>'
                    f'<td class="soft small">{_e(kernel.get("shapes", ""))}</td></tr>'
                )
        if rows:
            result += (
                f"<details><summary>longest kernels of {_name(i, run)}, rank 0</summary>"
                '<div class="scroll"><table><thead><tr><th class="n">ms a step</th><th>operation</th>'
                f"<th>inputs</th></tr></thead><tbody>{rows}</tbody></table></div></details>"
            )
    return result


# -- mistakes --------------------------------------------------------------------------------------------
def _confusion(runs: Sequence[Run]) -> str:
    cards = "".join(
        f'<div class="card"><h3>{_name(i, run)}, {run.mistakes.part}</h3>{_matrix(run)}{_worst(run)}</div>'
        for i, run in enumerate(runs)
        if run.mistakes
    )
    if not cards:
        return ""
    return (
        '<h2>What is taken for what</h2><p class="soft">A row is a class of examples, a column what the '
        "model takes them for. Below, the mistakes of the highest loss: class → taken for, and the loss.</p>"
        f'<div class="grid">{cards}</div>'
    )


def _matrix(run: Run) -> str:
    assert run.mistakes
    counts, names = run.mistakes.confusion, [_e(name) for name in run.mistakes.classes]
    worst = max((n for i, row in enumerate(counts) for j, n in enumerate(row) if i != j), default=0) or 1
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    body = ""
    for i, row in enumerate(counts):
        cells = ""
        for j, n in enumerate(row):
            if i == j:
                recall = n / sum(row) if sum(row) else 0.0
                cells += f'<td class="right" title="{n} of {sum(row)} right, {recall:.1%}">{n}</td>'
            elif n:
                heat = 0.12 + 0.78 * (n / worst) ** 0.5
                cells += (
                    f'<td style="background-color:rgba(var(--tint),{heat:.2f})" '
                    f'title="{n} times {names[i]} taken for {names[j]}">{n}</td>'
                )
            else:
                cells += "<td></td>"
        body += f'<tr><th scope="row">{names[i]}</th>{cells}</tr>'
    return f'<table class="matrix"><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>'


def _worst(run: Run) -> str:
    assert run.mistakes
    shape, names = run.mistakes.shape, [_e(name) for name in run.mistakes.classes]
    shown = ""
    for entry in run.mistakes.worst:
        label, predicted = names[entry["label"]], names[entry["predicted"]]
        said = f"{run.mistakes.part} example {entry['example']}: {label} taken for {predicted}"
        image = f"{entry['example']}<br>"
        if shape:
            data = base64.b64encode(png(entry["pixels"], *shape)).decode()
            image = f'<img src="data:image/png;base64,{data}" alt="{said}" title="{said}">'
        shown += (
            f"<figure>{image}<b>{label}→{predicted}</b><br>"
            f'<span class="soft">{_format(entry["loss"], ".1f")}</span></figure>'
        )
    return f'<div class="worst">{shown}</div>' if shown else '<p class="soft">No mistakes.</p>'


def png(pixels: bytes, height: int, width: int, channels: int = 1) -> bytes:
    """A PNG of rows of bytes: grey, 255 being ink (black), or of three channels, colours as they are."""
    if channels == 1:
        pixels = bytes(255 - p for p in pixels)
    line = width * channels
    rows = b"".join(b"\0" + pixels[y * line : (y + 1) * line] for y in range(height))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows, 9))
        + chunk(b"IEND", b"")
    )


# -- configuration and environment -----------------------------------------------------------------------
def _environment(run: Run) -> dict[str, Any]:
    facts = {said: run.header[name] for name, said in ENVIRONMENT.items() if name in run.header}
    environment = run.header.get("environment")
    if isinstance(environment, dict):
        facts |= environment
    started = number(run.header.get("time"))
    if started is not None and 0 <= started < 1e11:
        facts["started"] = time.strftime("%Y-%m-%d %H:%M", time.localtime(started))
    return facts


def _table(title: str, runs: Sequence[Run], facts: Sequence[dict[str, Any]], ignored: Sequence[str]) -> str:
    """Facts of each run in a column; a row whose values differ is marked."""
    names = list(dict.fromkeys(name for each in facts for name in each))
    if not names:
        return ""
    head = "".join(f"<th>{_name(i, run)}</th>" for i, run in enumerate(runs))
    rows, differing = "", 0
    for name in names:
        values = [_value(each[name]) if name in each else "–" for each in facts]
        differs = len(set(values)) > 1 and name not in ignored
        differing += differs
        cells = "".join(f"<td>{_e(value)}</td>" for value in values)
        rows += f'<tr{" class=differs" if differs else ""}><th scope="row">{_e(name)}</th>{cells}</tr>'
    said = "Rows that differ are marked." if differing else "It is the same in all runs."
    told = f'<p class="soft">{said}</p>' if len(runs) > 1 else ""
    return (
        f'<h2>{title}</h2>{told}<div class="card scroll"><table class="facts"><thead><tr>'
        f"<th></th>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _value(value: Any) -> str:
    """A value as a person writes it: lists of one value as it and how often."""
    if isinstance(value, list):
        texts = [str(v) for v in value]
        if len(set(texts)) == 1:
            return texts[0] if len(texts) == 1 else f"{texts[0]} × {len(texts)}"
        return ", ".join(texts)
    if value == "":
        return "–"
    if isinstance(value, str) and len(value) == 64 and value.isalnum():  # a digest
        return value[:12] + "…"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
