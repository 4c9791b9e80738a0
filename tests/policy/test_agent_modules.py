"""The modules that an idle agent holds: counted because that is stable where milliseconds and bytes are not.

A module that is new here costs every guest memory and every start time. Import it where it is first needed; if it
really belongs to the idle agent, add it to the list in the same commit and say why.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

# An agent on the loop after one Check, without the listening and the namespaces of `main`.
SCRIPT = """
import sys
from kata_agent import main
main.prepare_process()
import asyncio
from kata_agent.spare import Deferred
from kata_agent import config, serve
from kata_agent.agent import Agent
from kata_agent.dispatch import HEALTH, Dispatcher
from kata_agent.log import Log
from kata_agent.processes.exits import ExitBook, attach_reaper
from kata_init import exits

async def life():
    book = ExitBook()
    attach_reaper(book, exits.reap)
    async with asyncio.TaskGroup() as group:
        agent = Agent(config.Config(), Log(), group=group, exits=book, host=None, stored={}, supervised=True)
        serve._watch_loop(agent.log)
        endpoint = Dispatcher(agent).find(HEALTH, "Check")
        assert endpoint.handler(endpoint.request_type(), None).status == 1
    serve.settle_memory()
    print("\\n".join(sorted(name for name, module in sys.modules.items()
        if module is not None and not isinstance(module, Deferred))))

asyncio.run(life())
"""

OURS = """
kata_agent kata_agent.agent kata_agent.around kata_agent.busypoll kata_agent.config kata_agent.config.setting
kata_agent.config.source kata_agent.config.table kata_agent.config.value kata_agent.dispatch kata_agent.durations
kata_agent.errors kata_agent.flight kata_agent.life kata_agent.log
kata_agent.main kata_agent.parts kata_agent.policy kata_agent.processes kata_agent.processes.exits
kata_agent.serve kata_agent.services kata_agent.services.health kata_agent.spare kata_agent.version
kata_init kata_init.exits
kata_linux kata_linux.procfs kata_linux.record
kata_protocols kata_protocols.aio kata_protocols.aio.calls kata_protocols.aio.connection kata_protocols.aio.reply
kata_protocols.aio.router kata_protocols.aio.server kata_protocols.aio.sniff kata_protocols.aio.transport
kata_protocols.gen kata_protocols.gen.health_pb2 kata_protocols.gen.ttrpc_pb2 kata_protocols.log_record
kata_protocols.messages kata_protocols.services kata_protocols.status
kata_protocols.ttrpc kata_protocols.ttrpc.connection kata_protocols.ttrpc.envelope kata_protocols.ttrpc.errors
kata_protocols.ttrpc.events kata_protocols.ttrpc.frame kata_protocols.ttrpc.state
""".split()  # noqa: SIM905 - a table of names

# What nobody may bring back: each was measured, or is only for tools.
BANNED = """
anyio argparse ast concurrent.futures.process concurrent.futures.thread ctypes.util dataclasses dis email
google.protobuf.internal.builder google.protobuf.internal.decoder google.protobuf.message_factory
google.protobuf.reflection google.protobuf.text_format grpclib h2 hashlib http inspect json logging.config
logging.handlers multiprocessing pickletools psutil pydoc pyroute2 pyudev shutil ssl subprocess tempfile tomllib
unittest urllib
kata_agent.containers kata_agent.mounts kata_agent.sandbox kata_agent.standalone kata_protocols.gen.agent_pb2
kata_protocols.gen.oci_pb2 kata_protocols.grpc
""".split()  # noqa: SIM905 - a table of names


@pytest.fixture(scope="module")
def modules() -> set[str]:
    done = subprocess.run(
        [sys.executable, "-I", "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_idle_agent_holds_exactly_these_modules_of_ours(modules: set[str]) -> None:
    assert sorted(name for name in modules if name.startswith("kata_")) == sorted(OURS)


def test_idle_agent_holds_none_of_the_banned_modules(modules: set[str]) -> None:
    assert sorted(modules & set(BANNED)) == []


def test_idle_agent_holds_no_more_foreign_modules_than_the_measured_agent_did(modules: set[str]) -> None:
    foreign = sorted(name for name in modules if not name.startswith("kata_"))
    limit = 165  # 155 with Python 3.11; other versions of the standard library differ a little
    assert len(foreign) <= limit, f"{len(foreign)} modules, {limit} allowed: {' '.join(foreign)}"


def test_lists_name_modules_once_and_never_both_ways() -> None:
    assert len(set(OURS)) == len(OURS)
    assert len(set(BANNED)) == len(BANNED)
    assert not set(OURS) & set(BANNED)
