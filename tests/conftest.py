"""What holds for every test: the `requires` marker, the counts that `scripts/test` puts into its table, and which
examples hypothesis draws: the same ones in every run, however long one of them takes on a machine that is busy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from kata_testing import requires

PROFILE = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "database": None}

settings.register_profile("same", derandomize=True, **PROFILE)
settings.register_profile("search", derandomize=False, max_examples=5000, **PROFILE)
settings.load_profile("same")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse misspelt needs at collection: a need that nobody declared would otherwise skip for ever."""
    for item in items:
        for need in needs_of(item):
            if need.partition(":")[0] not in requires.NEEDS:
                raise pytest.UsageError(
                    f"{item.nodeid}: no need is called {need!r}; see kata_testing/requires.py"
                )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose machine lacks something, or fail it when KATA_TEST_REQUIRE demands it."""
    lack = requires.missing(needs_of(item), os.environ.get(requires.VARIABLE, ""))
    if lack is None:
        return
    text, must_be_there = lack
    if must_be_there:
        pytest.fail(f"{text} ({requires.VARIABLE} demands it)", pytrace=False)
    pytest.skip(text)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write the counts to the file that `scripts/test` names: reading them from the output would need a pipe, which
    any process that a test leaves behind keeps open."""
    target = os.environ.get("KATA_TEST_SUMMARY")
    if target:
        counts = {
            word: len(terminalreporter.stats.get(word, []))
            for word in ("passed", "failed", "error", "skipped")
        }
        Path(target).write_text(
            ", ".join(f"{count} {word}" for word, count in counts.items() if count) + "\n"
        )


def needs_of(item: pytest.Item) -> tuple[str, ...]:
    return tuple(str(need) for marker in item.iter_markers("requires") for need in marker.args)
