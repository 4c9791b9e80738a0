"""What is made immortal before a template is saved: the program, and nothing that comes and goes."""

from __future__ import annotations

import os
import subprocess
import sys
from types import ModuleType

import pytest

from kata_agent.snapshot import immortal

# In a process of its own: what is immortal stays so.
TRY = """
import sys
from kata_agent.snapshot import immortal
class Thing: pass
thing, listed = Thing(), []
def work(value=("a constant", 1000000)): return value
before = sys.getrefcount(thing), sys.getrefcount(listed)
print(immortal.make_immortal())
names = [work, Thing, work.__code__, work.__defaults__, sys.modules["sys"]]
print(sum(sys.getrefcount(name) == immortal.COUNT for name in names))
for _ in range(1000):
    work()
    Thing()
print(sum(sys.getrefcount(name) == immortal.COUNT for name in names))
assert before == (sys.getrefcount(thing), sys.getrefcount(listed))
"""


class Thing:
    """Whose instance is in the module below."""

    def method(self) -> str:
        return "a constant of a method"


def test_the_program_is_found_and_instances_are_not_passed_through() -> None:
    module = ModuleType("program")
    inner, only_inside = ModuleType("inner"), os.urandom(16)
    thing = Thing()
    vars(thing)["held"] = only_inside
    vars(module).update(inner=inner, thing=thing, listed=[only_inside], kind=Thing, table={"key": (1.5,)})
    found = list(immortal.find_program([module]))
    for wanted in (module, inner, Thing, Thing.method, Thing.method.__code__, "a constant of a method", 1.5):
        assert any(one is wanted or (one == wanted and type(one) is type(wanted)) for one in found), wanted
    assert not any(one is thing or one is vars(module) or one is only_inside for one in found)
    assert len({id(one) for one in found}) == len(found)


def test_the_counts_stop_where_the_interpreter_is_known_and_nothing_is_touched_elsewhere() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TRY], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    made, at_first, later = map(int, done.stdout.split())
    if sys.version_info[:2] in immortal.VERSIONS:
        assert made > 1000
        assert at_first == later == 5
    else:
        assert (made, at_first, later) == (0, 0, 0)


def test_another_version_of_the_interpreter_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(immortal, "VERSIONS", ())
    assert not immortal.is_known()
    assert immortal.make_immortal() == 0
