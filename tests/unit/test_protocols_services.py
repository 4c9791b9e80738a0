"""Services are read from the descriptors, each when it is first asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kata_protocols import services
from kata_protocols.gen import agent_pb2
from kata_protocols.services import Method
from kata_protocols.status import Code, StatusError

LAZY = """
import sys
from kata_protocols import services
assert not any(name.startswith("kata_protocols.gen.") for name in sys.modules)
services.HEALTH_SERVICE
assert "kata_protocols.gen.agent_pb2" not in sys.modules
"""


def test_a_method_knows_its_service_and_messages() -> None:
    assert services.AGENT_SERVICE.methods["ReadStdout"] == Method(
        "grpc.AgentService", "ReadStdout", agent_pb2.ReadStreamRequest, agent_pb2.ReadStreamResponse
    )


def test_a_service_is_made_once() -> None:
    assert services.HEALTH_SERVICE is services.HEALTH_SERVICE


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="NOPE_SERVICE"):
        services.NOPE_SERVICE  # noqa: B018  # the look-up is the test


def test_health_does_not_load_the_agents_messages() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LAZY], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_status_error_prints_its_code_and_text() -> None:
    assert str(StatusError(Code.NOT_FOUND, "no such thing")) == "NOT_FOUND: no such thing"
