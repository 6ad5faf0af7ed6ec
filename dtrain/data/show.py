"""`dtrain data show`: what is in a set, as text."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from dtrain.data.draw import beside, drawn, is_image, width_of
from dtrain.data.store import Manifest, Store

MOST_CLASSES = 20  # that are listed
EXAMPLES, COLUMNS = 4, 100


def shown(found: Store, source: str) -> list[str]:
    """Lines that say what is in a store, for the standard output."""
    manifest = found.manifest
    lines = [f"{manifest.name}: {_parts(manifest)}", f"  from   {source}"]
    moments = manifest.moments["x"]
    lines.append(f"  x      {manifest.columns['x']}, {_range(moments)}")
    lines += _targets(manifest)
    if manifest.unused:
        lines.append(f"  unused {', '.join(manifest.unused[:10])}")
    lines.append(f"  size   {found.nbytes / 1e6:,.1f} MB")
    lines.append(f"  digest {manifest.digest}")
    return [*lines, "", *_examples(found)]


def _parts(manifest: Manifest) -> str:
    words = {"train": "to train on", "validation": "to validate on", "test": "to test on"}
    said = [f"{count:,} {words[part]}" for part, count in manifest.parts.items()]
    return ", ".join(said) + ("" if "test" in manifest.parts else ", none to test on")


def _range(moments: Any) -> str:
    mean, deviation = np.array(moments.mean), np.array(moments.deviation)
    whole = np.sqrt((deviation**2 + mean**2).mean() - mean.mean() ** 2)
    return f"{moments.least:.6g} to {moments.most:.6g}, mean {mean.mean():.6g}, deviation {whole:.6g}"


def _targets(manifest: Manifest) -> list[str]:
    column, names = manifest.columns["y"], manifest.classes
    if manifest.kind == "numbers":
        columns = f" ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})" if names else ""
        return [f"  y      numbers{columns}, {column}, {_range(manifest.moments['y'])}"]
    what = "classes" if manifest.kind == "classes" else "labels, of which several may hold"
    wide = max(len(name) for name in names[:MOST_CLASSES])
    parts = [*manifest.parts]
    lines = [f"  y      {len(names)} {what}"]
    lines.append(f"         {'':{wide}}" + "".join(f"{part:>12}" for part in parts))
    for index, name in enumerate(names[:MOST_CLASSES]):
        counts = "".join(f"{manifest.counts[part][index]:>12,}" for part in parts)
        lines.append(f"         {name:{wide}}{counts}")
    if len(names) > MOST_CLASSES:
        lines.append(f"         and {len(names) - MOST_CLASSES} more")
    return lines


def _examples(found: Store) -> list[str]:
    """The first examples, of as many classes as there are."""
    rows, terminal = _chosen(found), sys.stdout
    colour = terminal.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    try:
        "▀▁".encode(getattr(terminal, "encoding", None) or "ascii")
        blocks = True
    except UnicodeEncodeError:
        blocks = False
    titles = [f"{row}: {_target(found, row)}" for row in rows]
    pictures = [drawn(found.x[row], colour, blocks) for row in rows]
    if not is_image(found.x.dtype.name, found.x.shape[1:]):
        return [
            line for title, picture in zip(titles, pictures, strict=True) for line in (title, *_in(picture))
        ]
    wide = max(12, width_of(found.x.shape[1:]))
    fit = max(1, COLUMNS // (wide + 3))
    columns = [[f"{t[:wide]:{wide}}", *p] for t, p in zip(titles, pictures, strict=True)]
    return beside(columns[:fit], wide)


def _in(lines: Sequence[str]) -> list[str]:
    return ["  " + line for line in lines]


def _chosen(found: Store) -> list[int]:
    train = found.manifest.parts["train"]
    if found.manifest.kind != "classes":
        return [*range(min(EXAMPLES, train))]
    _, first = np.unique(found.y[: min(train, 100_000)], return_index=True)
    return [int(row) for row in first[:EXAMPLES]]


def _target(found: Store, row: int) -> str:
    y, manifest = found.y[row], found.manifest
    if manifest.kind == "classes":
        return manifest.classes[int(y)]
    if manifest.kind == "labels":
        return ", ".join(name for name, on in zip(manifest.classes, y, strict=True) if on) or "none"
    return " ".join(f"{v:.4g}" for v in np.atleast_1d(y).reshape(-1)[:8])
