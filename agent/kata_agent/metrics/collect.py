"""One scrape: every source is read, what cannot be is left out and told once.

Owns: the scrape's count and what was told. Must not know: the wire. Nothing is kept between scrapes, so a series ends
with what it is about, and an agent whose metrics nobody reads pays nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata_agent.metrics import guest, own, process
from kata_agent.metrics.exposition import COUNTER, Family, render

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from kata_agent.durations import Durations
    from kata_agent.life import Life
    from kata_agent.log import Log


class Collector:
    """Gives the text of `GetMetrics`. `reasons` is asked for the exits by reason."""

    def __init__(
        self,
        log: Log,
        durations: Durations,
        life: Life,
        reasons: Callable[[], Mapping[str, int]],
        *,
        proc: str = "/proc",
    ) -> None:
        self._log = log
        self._durations = durations
        self._life = life
        self._reasons = reasons
        self._proc = proc
        self._told: dict[str, str] = {}
        self._scrapes = 0

    def scrape(self) -> str:
        """Read everything now; some 2 ms."""
        self._scrapes += 1
        families = [
            process.single("kata_agent_scrape_count", COUNTER, "Calls of GetMetrics", self._scrapes),
            *own.call_families(self._durations),
            *own.life_families(self._life),
            *own.exit_families(self._reasons()),
        ]
        for name, source in self._sources():
            try:
                families += source()
            except (OSError, ValueError, IndexError, KeyError) as error:
                self._tell(name, error)
            else:
                self._told.pop(name, None)
        return render(families)

    def _sources(self) -> Iterator[tuple[str, Callable[[], Iterator[Family]]]]:
        yield from process.sources(self._proc)
        yield from guest.sources(self._proc)

    def _tell(self, name: str, error: Exception) -> None:
        """In the log, once for each text, so that a scrape a second does not fill it."""
        text = f"{type(error).__name__}: {error}"
        if self._told.get(name) != text:
            self._told[name] = text
            self._log.warning("metrics", "a source of metrics is left out", source=name, error=text)
