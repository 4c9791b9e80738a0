"""What the memory agent may do, and changes of it. Pure.

Owns: names, defaults and bounds; they are Kata's (`agent.mem_agent_*`, MemAgentMemcgSet, MemAgentCompactSet). Must not
know: the wire's messages, the kernel. A value that does not fit is refused where Kata's agent cuts it to 8 bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from kata_agent.errors import InvalidRequest
from kata_linux.record import Record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kata_agent.config import Config

MAX_SWAPPINESS = 200
MAX_ORDER = 10
MAX_PERCENT = 100


class MemcgSettings(Record):
    """Giving back what has not been used for some generations."""

    disabled: bool = False
    swap: bool = False
    swappiness_max: int = 50
    period_secs: int = 600
    period_psi_percent_limit: int = 1
    eviction_psi_percent_limit: int = 1
    eviction_run_aging_count_min: int = 3


class CompactSettings(Record):
    """Making large free blocks of small ones. Threshold in pages."""

    disabled: bool = False
    period_secs: int = 600
    period_psi_percent_limit: int = 1
    compact_psi_percent_limit: int = 5
    compact_sec_max: int = 300
    compact_order: int = 9
    compact_threshold: int = 1024
    compact_force_times: int = 2**64 - 1


_BOUNDS = {
    "swappiness_max": (0, MAX_SWAPPINESS),
    "period_secs": (1, 2**31),
    "period_psi_percent_limit": (0, MAX_PERCENT),
    "eviction_psi_percent_limit": (0, MAX_PERCENT),
    "compact_psi_percent_limit": (0, MAX_PERCENT),
    "compact_sec_max": (1, 2**31),
    "compact_order": (0, MAX_ORDER),
}

_MEMCG = tuple((name, f"mem_agent_memcg_{name}") for name in MemcgSettings._fields[1:])
_COMPACT = tuple(
    (name, f"mem_agent_compact_{name.removeprefix('compact_')}") for name in CompactSettings._fields[1:]
)

Settings = TypeVar("Settings", MemcgSettings, CompactSettings)


def change(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """The settings with these fields changed. Raises `InvalidRequest` that names the field and its bounds."""
    for name, value in changes.items():
        low, high = _BOUNDS.get(name, (0, 2**64 - 1))
        if not low <= value <= high:
            raise InvalidRequest(f"{name} {value}: at least {low} and at most {high}")
    changed: Settings = settings._replace(**changes)
    return changed


def from_config(config: Config) -> tuple[MemcgSettings, CompactSettings]:
    """What the guest was started with. Raises `InvalidRequest`."""
    memcg = {name: getattr(config, field) for name, field in _MEMCG}
    compact = {name: getattr(config, field) for name, field in _COMPACT}
    return (
        change(MemcgSettings(disabled=config.mem_agent_memcg_disable), memcg),
        change(CompactSettings(disabled=config.mem_agent_compact_disable), compact),
    )
