"""What `agent.pressure` may say, what its events carry, and what a kernel without it answers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from kata_agent.cgroups.pressure import Limit, Met, PressureWatch, parse_limits
from kata_agent.config import parse_cmdline
from kata_agent.errors import NotSupported
from kata_agent.events import EventHub
from kata_agent.services.events import encode_event
from kata_protocols.gen import sandbox_pb2 as pb


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("off", ()),
        ("memory", (Limit("memory", 200_000, 2_000_000),)),
        ("cpu:1/500,io", (Limit("cpu", 1000, 500_000), Limit("io", 500_000, 2_000_000))),
    ],
)
def test_limits_are_named_with_or_without_figures(text: str, limits: tuple[Limit, ...]) -> None:
    assert parse_limits(text) == limits
    assert parse_cmdline(f"agent.pressure={text}").config.pressure == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("disk", "not `off` nor a list of memory, io, cpu"),
        ("memory:200", "not written as memory:STALL/WINDOW, in ms"),
        ("memory:-1/1000", "not written as"),
        ("memory:200/499", "out of range"),
        ("memory:200/10001", "out of range"),
        ("memory:0/1000", "out of range"),
        ("memory:2000/1000", "out of range"),
    ],
)
def test_what_the_kernel_would_not_take_is_told_and_the_default_kept(text: str, why: str) -> None:
    reading = parse_cmdline(f"agent.pressure={text}")
    assert reading.config.pressure == "off"
    assert len(reading.complaints) == 1
    assert f"agent.pressure: {text!r} is {why}" in reading.complaints[0]


def test_a_kernel_without_pressure_files_is_told_by_name(tmp_path: Path) -> None:
    told: list[Met] = []
    reported: list[tuple[str, BaseException]] = []

    async def body() -> None:
        watch = PressureWatch(
            parse_limits("memory"),
            tell=told.append,
            report=lambda what, error: reported.append((what, error)),
            guest=str(tmp_path),
        )
        watch.arm("c", str(tmp_path))
        watch.disarm("c")
        watch.close()

    asyncio.run(body())
    assert told == []
    assert [what for what, _ in reported] == ["no events of memory pressure"] * 2
    assert all(isinstance(error, NotSupported) for _, error in reported)
    assert f"{tmp_path}/memory: this kernel does not tell pressure" in str(reported[0][1])


def test_an_event_on_the_wire_has_the_limit_and_the_figures() -> None:
    hub = EventHub()
    fields = {"resource": "io", "stall_us": 5, "window_us": 500_000, "average": 1.5, "missed": 2}
    hub.emit("pressure", "c", **fields)
    (event,) = (encode_event(hub, event) for event in hub.since(1, 9))
    assert (event.kind, event.container_id) == (pb.PRESSURE, "c")
    assert event.pressure == pb.Pressure(**fields)
