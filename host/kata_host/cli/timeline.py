"""Prints a machine's time line: when the host saw each event, and when the guest's own clock says it was."""

from __future__ import annotations

from kata_host.vm.base import Stamp, Timeline

_NS = 1e9


def read_guest_clock(stamp: Stamp) -> float | None:
    """Seconds since the guest's kernel started, from what the guest said (nanoseconds)."""
    word = stamp.guest.split(maxsplit=1)[0] if stamp.guest else ""
    return int(word) / _NS if word.isdigit() else None


def plan_rows(timeline: Timeline) -> list[dict[str, object]]:
    """One row for each event, with the kernel's own start worked out from the guest's first word."""
    stamps = list(timeline.stamps)
    first = next((stamp for stamp in stamps if read_guest_clock(stamp) is not None), None)
    if first is not None:
        uptime = read_guest_clock(first) or 0.0
        stamps.insert(stamps.index(first), Stamp("kernel started", max(0.0, first.host_s - uptime), "0"))
    rows: list[dict[str, object]] = []
    before = 0.0
    for stamp in stamps:
        rows.append(
            {
                "event": stamp.event,
                "host_s": round(stamp.host_s, 4),
                "step_s": round(stamp.host_s - before, 4),
                "guest_s": read_guest_clock(stamp),
            }
        )
        before = stamp.host_s
    return rows


def format_table(rows: list[dict[str, object]]) -> str:
    """The rows for people."""
    lines = [f"{'event':<22} {'host s':>9} {'step s':>9} {'guest s':>9}"]
    for row in rows:
        guest = f"{row['guest_s']:9.3f}" if row["guest_s"] is not None else f"{'':>9}"
        lines.append(f"{row['event']:<22} {row['host_s']:9.3f} {row['step_s']:9.3f} {guest}")
    return "\n".join(lines)
