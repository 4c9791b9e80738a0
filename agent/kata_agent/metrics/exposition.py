"""Prometheus' text format 0.0.4: families of samples in, one text out. Pure.

Owns: the format alone. Must not know: where figures come from. Numbers are plain decimals, integers without a
fraction, because the Go runtime passes the text on as it is. `prometheus_client` cannot write it: it renames Kata's
counter to `..._total` and prints integers as floats (decision 0130).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata_linux.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterable

COUNTER = "counter"
GAUGE = "gauge"
HISTOGRAM = "histogram"

# What a label's value may not hold as it is.
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class Sample(Record):
    """A figure; `labels` in the order of their names, `suffix` only for the series of a histogram."""

    value: float
    labels: tuple[tuple[str, str], ...] = ()
    suffix: str = ""


class Family(Record):
    """Samples of one name. `help` must be one line."""

    name: str
    kind: str
    help: str
    samples: tuple[Sample, ...]


def item_family(name: str, help_text: str, items: Iterable[tuple[str, float]], **labels: str) -> Family:
    """Kata's usual shape: a gauge with the label `item`, and perhaps others of one value."""
    fixed = tuple(labels.items())
    samples = [Sample(value, tuple(sorted((*fixed, ("item", item))))) for item, value in items]
    return Family(name, GAUGE, help_text, tuple(samples))


def render(families: Iterable[Family]) -> str:
    """The text: families by name, samples by their labels' values, a histogram's in their own order."""
    lines: list[str] = []
    for family in sorted(families, key=lambda family: family.name):
        if not family.samples:
            continue
        lines.append(f"# HELP {family.name} {family.help}")
        lines.append(f"# TYPE {family.name} {family.kind}")
        samples = family.samples
        if family.kind != HISTOGRAM:
            samples = tuple(sorted(samples, key=lambda sample: sample.labels))
        lines.extend(
            f"{family.name}{sample.suffix}{_braces(sample.labels)} {number(sample.value)}"
            for sample in samples
        )
    lines.append("")
    return "\n".join(lines)


def number(value: float) -> str:
    """A plain decimal: no exponent, microseconds at the finest, and no fraction for what is whole."""
    if isinstance(value, int):
        return str(value)
    return f"{value:.6f}".rstrip("0").rstrip(".")


def _braces(labels: tuple[tuple[str, str], ...]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in labels) + "}"
