"""Stand-ins for modules: cheap until they are used, and then the module itself."""

from __future__ import annotations

import functools
import subprocess
import sys

import pytest

from kata_agent import spare


async def coroutine() -> None:
    pass


class Thing:
    async def coroutine(self) -> None:
        pass

    def plain(self) -> None:
        pass


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (coroutine, True),
        (Thing().coroutine, True),
        (functools.partial(coroutine), True),
        (Thing().plain, False),
        (functools.partial(Thing().plain), False),
        (print, False),
        (Thing, False),
        (None, False),
    ],
)
def test_coroutine_functions_are_told_as_inspect_does(function: object, *, expected: bool) -> None:
    assert spare.is_coroutine_function(function) is expected


def test_stand_in_gives_what_it_was_given_and_else_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = spare.Deferred("colorsys", given=1)
    monkeypatch.setitem(sys.modules, "colorsys", stand_in)
    assert stand_in.given == 1
    assert sys.modules["colorsys"] is stand_in
    assert stand_in.rgb_to_hsv(0, 0, 0) == (0.0, 0.0, 0)
    assert sys.modules["colorsys"] is not stand_in


def test_agent_s_process_still_can_import_and_use_what_was_put_off() -> None:
    script = """
import sys
from kata_agent.spare import Deferred, spare_imports
spare_imports()
import asyncio
assert isinstance(sys.modules["inspect"], Deferred) and isinstance(sys.modules["subprocess"], Deferred)
async def main():
    asyncio.get_running_loop().add_signal_handler(15, lambda: None)
    assert isinstance(sys.modules["inspect"], Deferred)
    process = await asyncio.create_subprocess_exec("true")
    assert await process.wait() == 0
asyncio.run(main())
import inspect, subprocess
from inspect import signature
assert str(signature(lambda a: a)) == "(a)"
assert subprocess.run(["true"]).returncode == 0
from kata_protocols.gen import agent_pb2
assert "c1" in str(agent_pb2.StartContainerRequest(container_id="c1"))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
