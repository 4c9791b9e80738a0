"""The rules of `requires`: what is not demanded skips, what is demanded fails, a misspelt name is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kata_testing import requires

pytest_plugins = ["pytester"]

CONFTEST = Path(__file__).parents[1] / "conftest.py"
CASE = """
import pytest

@pytest.mark.requires({need!r})
def test_it():
    pass
"""


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    needs = {
        "here": requires.Need(lambda _: None, by_setup=True),
        "absent": requires.Need(lambda _: "it is not there", by_setup=True),
        "kernel": requires.Need(lambda option: f"no {option}", by_setup=False),
    }
    monkeypatch.setattr(requires, "NEEDS", needs)
    requires.why_missing.cache_clear()
    yield
    requires.why_missing.cache_clear()


@pytest.mark.usefixtures("machine")
class TestMissing:
    def test_a_need_that_is_there_is_not_missing(self) -> None:
        assert requires.missing(("here",), "all") is None

    def test_an_undemanded_need_may_be_missing(self) -> None:
        assert requires.missing(("here", "absent"), "") == ("requires absent: it is not there", False)

    @pytest.mark.parametrize("demanded", ["absent", "here, absent", "all"])
    def test_a_demanded_need_must_be_there(self, demanded: str) -> None:
        assert requires.missing(("absent",), demanded) == ("requires absent: it is not there", True)

    def test_all_does_not_demand_what_only_some_kernels_have(self) -> None:
        assert requires.missing(("kernel:memory",), "all") == ("requires kernel:memory: no memory", False)
        assert requires.missing(("kernel:memory",), "kernel:memory") == (
            "requires kernel:memory: no memory",
            True,
        )

    def test_a_name_that_nobody_declared_is_an_error(self) -> None:
        with pytest.raises(KeyError, match="mispelt"):
            requires.missing(("mispelt",), "")


@pytest.mark.usefixtures("machine")
class TestMarker:
    def outcome(self, pytester: pytest.Pytester, need: str) -> pytest.RunResult:
        pytester.makeini("[pytest]\nmarkers = requires(*needs): as in the project")
        pytester.makeconftest(CONFTEST.read_text())
        pytester.makepyfile(CASE.format(need=need))
        return pytester.runpytest_inprocess("-rs")

    def test_what_is_missing_skips(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(requires.VARIABLE, raising=False)
        result = self.outcome(pytester, "absent")
        result.assert_outcomes(skipped=1)
        result.stdout.fnmatch_lines("*requires absent: it is not there*")

    def test_what_is_missing_and_demanded_fails(
        self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(requires.VARIABLE, "absent")
        result = self.outcome(pytester, "absent")
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines("*it is not there (KATA_TEST_REQUIRE demands it)*")

    def test_a_misspelt_need_stops_the_collection(self, pytester: pytest.Pytester) -> None:
        result = self.outcome(pytester, "mispelt")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines("*no need is called 'mispelt'*")
