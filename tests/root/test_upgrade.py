"""Live upgrade: other code goes on with everything, or is refused and nothing changes, or is given up by PID 1.

KATA_TEST_UPGRADES says how many upgrades the torture has.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from kata_host.upgrade import UpgradeFailed, pack_code, upgrade
from kata_protocols.aio.client import ConnectionLostError
from kata_protocols.gen import sandbox_pb2 as pb
from kata_protocols.services import SANDBOX_SERVICE
from kata_protocols.status import Code, StatusError
from kata_testing.agent_code import copy_code
from kata_testing.chaos import Chaos, Host, kill_agent, parent_of, read_traces, wait_no_leaks
from kata_testing.native import NEEDS, NativeAgent, native_agent
from kata_testing.wire import run_async

pytestmark = pytest.mark.requires(*NEEDS)

UPGRADES = int(os.environ.get("KATA_TEST_UPGRADES", "4"))
KILLS = UPGRADES
SEED = int(os.environ.get("KATA_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
LIMIT_S = 120.0


async def ask(agent: NativeAgent, name: str, **fields: Any) -> Any:
    method = SANDBOX_SERVICE.methods[name]
    return await (await agent.client()).call(method, method.request_type(**fields), timeout_s=LIMIT_S)


async def change(agent: NativeAgent, code: Path, **fields: Any) -> pb.GetBootResponse:
    """Upgrade to it; what the agent tells that answers then."""
    _, boot = await upgrade(str(agent.address), pb.UpgradeRequest(path=str(code), **fields))
    return boot


def change_version(work: Path) -> None:
    """Let a state file be of a version that nobody knows."""
    text = read_text(work / "state.json")
    assert '"version": 1' in text
    (work / "state.json").write_text(text.replace('"version": 1', '"version": 9'), encoding="utf-8")


def read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


class Upgrades(Chaos):
    """The load of the chaos test, under upgrades instead of kills."""

    code = Path()

    async def _kill_all(self) -> None:
        while self.account.kills < self._kills:
            await asyncio.sleep(self._random.uniform(0, 0.3))  # the random moment
            begin = time.monotonic()
            await change(self._agent, self.code)
            self.account.answered_after_s.append(time.monotonic() - begin)
            self.account.kills += 1
            async with self._lives:
                self._lives.notify_all()


def test_nothing_is_lost_by_upgrades_at_random_moments_under_load(tmp_path: Path) -> None:
    async def body() -> None:
        async with native_agent(tmp_path, supervised=True) as agent:
            warm = await agent.run("true")
            await agent.wait(warm)
            await agent.remove(warm)
            before = read_traces(agent)
            load = Upgrades(agent, seed=SEED, kills=UPGRADES)
            load.code = copy_code(tmp_path / "code")
            async with asyncio.timeout(LIMIT_S + 20 * UPGRADES):
                account = await load.run()
            sys.stdout.write(f"seed {SEED}: {account.summary()}\n")
            boot = await ask(agent, "GetBoot")
            assert (boot.life, boot.last_end) == (UPGRADES + 1, "exit code 0")
            assert await wait_no_leaks(agent, before) == []
            codes = os.listdir(f"/proc/{parent_of(agent.agent_pid())}/root/run/kata-agent/code")
            assert len(codes) <= 2, "copies of code that nobody runs from are left"

    sys.stdout.write(f"KATA_TEST_SEED={SEED} repeats these moments\n")
    run_async(body(), timeout_s=LIMIT_S + 30 * UPGRADES)


def test_a_wait_that_was_pending_is_asked_again_and_gets_the_right_answer(tmp_path: Path) -> None:
    async def body() -> None:
        async with native_agent(tmp_path, supervised=True) as agent:
            container = await agent.run("sh", "-c", "read x; echo $x; exit 6")
            waiting = Host(agent, Chaos(agent, seed=1, kills=0).account)
            async with asyncio.TaskGroup() as group:
                group.create_task(waiting.wait(container, container, 6))
                boot = await change(agent, copy_code(tmp_path / "code"))
                assert boot.code == "/run/kata-agent/code/1.1"
                await agent.call("WriteStdin", container_id=container, data=b"go\n")
            assert await agent.read(container) == b"go\n"
            kinds = [event.kind for event in (await ask(agent, "PollEvents")).events]
            assert kinds[-3:] == [pb.STARTED, pb.AGENT_UPGRADED, pb.EXITED]

    run_async(body(), timeout_s=LIMIT_S)


@pytest.mark.parametrize(
    ("module", "old", "new", "reason"),
    [
        (
            "kata_agent__version",
            "STATE_KNOWN = (1,)",
            "STATE_KNOWN = (2,)",
            "the agent's state has version 1, this agent knows 2",
        ),
        (
            "kata_init__control",
            "VERSION = 1\n",
            "VERSION = 7\n",
            "PID 1 speaks version 1 of the control channel, this agent 7",
        ),
        (
            "kata_agent__services__ends",
            "import signal",
            "import no_such_module",
            "kata_agent.services.ends: ModuleNotFoundError: No module named 'no_such_module'",
        ),
    ],
)
def test_code_that_cannot_take_over_is_refused_and_the_same_agent_goes_on(
    tmp_path: Path, module: str, old: str, new: str, reason: str
) -> None:
    code = copy_code(tmp_path / "code", **{module: (old, new)})

    async def body() -> None:
        async with native_agent(tmp_path, supervised=True) as agent:
            container = await agent.run("sh", "-c", "read x; exit 6")
            pid = agent.agent_pid()
            with pytest.raises(StatusError) as caught:
                await ask(agent, "Upgrade", path=str(code))
            assert caught.value.code is Code.FAILED_PRECONDITION
            assert reason in caught.value.message
            assert "this agent goes on" in caught.value.message
            await agent.call("WriteStdin", container_id=container, data=b"go\n")
            assert await agent.wait(container) == 6
            assert agent.agent_pid() == pid
            assert (await ask(agent, "GetBoot")).life == 1

    run_async(body(), timeout_s=LIMIT_S)


@pytest.mark.parametrize(
    ("text", "ready_ms", "reason"),
    [
        ("raise RuntimeError('no')", 0, "failed: exit code 70"),
        ("import select; select.select([], [], [])", 500, "it was not ready 0.5 s after the upgrade"),
    ],
)
def test_code_that_does_not_become_ready_is_followed_by_the_code_before(
    tmp_path: Path, text: str, ready_ms: int, reason: str
) -> None:
    begin = "    prepare_process()\n    from kata_agent import serve\n\n    serve.run_sup"
    code = copy_code(tmp_path / "code", kata_agent__main=(begin, f"    {text}\n{begin}"))

    async def body() -> None:
        async with native_agent(tmp_path, supervised=True) as agent:
            container = await agent.run("sh", "-c", "read x; exit 6")
            good = copy_code(tmp_path / "good")
            first = await change(agent, good)
            with pytest.raises(UpgradeFailed, match=reason):
                await change(agent, code, ready_ms=ready_ms)
            boot = await ask(agent, "GetBoot")
            assert (boot.life, boot.code) == (4, first.code), "not the code that was there before"
            await agent.call("WriteStdin", container_id=container, data=b"go\n")
            assert await agent.wait(container) == 6
            last = [e for e in (await ask(agent, "PollEvents")).events if e.kind == pb.AGENT_RESTARTED][-1]
            assert reason in last.restart.reason

    run_async(body(), timeout_s=LIMIT_S)


ONCE = """    mark = "/run/kata-agent/was-ready"
    if os.path.exists(mark):
        raise RuntimeError("only once")
    os.makedirs(os.path.dirname(mark), exist_ok=True)
    open(mark, "x").close()
"""


def test_code_that_was_ready_and_never_is_again_is_given_up_for_that_of_pid_1(tmp_path: Path) -> None:
    begin = "    prepare_process()\n    from kata_agent import serve\n\n    serve.run_sup"
    code = copy_code(tmp_path / "code", kata_agent__main=(begin, f"{ONCE}{begin}"))

    async def body() -> None:
        async with native_agent(tmp_path, supervised=True) as agent:
            container = await agent.run("sh", "-c", "read x; exit 6")
            first = await change(agent, code)
            assert first.code
            client = await agent.client()
            os.kill(agent.agent_pid(), signal.SIGKILL)
            await client.wait_closed()
            boot = await ask(agent, "GetBoot")
            assert (boot.life, boot.code) == (6, ""), "three starts that were never ready, then PID 1's own"
            assert boot.last_end == f"the upgrade to {first.code} failed: exit code 70"
            await agent.call("WriteStdin", container_id=container, data=b"go\n")
            assert await agent.wait(container) == 6

    run_async(body(), timeout_s=LIMIT_S)


class UpgradesAndKills(Upgrades):
    """Upgrades, in each of which the agent is killed: the one that is asked, the one that drains, the one on trial."""

    done = 0

    async def _kill_all(self) -> None:
        begin = time.monotonic()
        await change(self._agent, self.code)
        span = 1.2 * (time.monotonic() - begin)
        while self.account.kills < self._kills:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._upgrade())
                await asyncio.sleep(self._random.uniform(0, span))  # the random moment
                if kill_agent(self._agent):
                    self.account.kills += 1
            begin = time.monotonic()
            await Host(self._agent, self.account).ask_health()
            self.account.answered_after_s.append(time.monotonic() - begin)
            async with self._lives:
                self._lives.notify_all()

    async def _upgrade(self) -> None:
        try:
            await change(self._agent, self.code)
            self.done += 1
        except (ConnectionLostError, UpgradeFailed):
            pass  # it went with the agent that was asked, or PID 1 gave it up; the load sees what else there is


def test_upgrades_and_kills_at_once_lose_nothing(tmp_path: Path) -> None:
    async def body() -> None:
        async with native_agent(tmp_path, supervised=True) as agent:
            load = UpgradesAndKills(agent, seed=SEED, kills=KILLS)
            load.code = copy_code(tmp_path / "code")
            account = await load.run()
            sys.stdout.write(f"seed {SEED}: {load.done} upgrades, {account.summary()}\n")

    sys.stdout.write(f"KATA_TEST_SEED={SEED} repeats these moments\n")
    run_async(body(), timeout_s=LIMIT_S + 2 * KILLS)


def test_a_state_of_an_unknown_version_ends_the_machine_with_that_reason(tmp_path: Path) -> None:
    async def body() -> None:
        async with native_agent(tmp_path, supervised=True) as agent:
            container = await agent.run("sleep", "1000")
            agent.made.remove(container)
            pid = agent.agent_pid()
            change_version(Path(f"/proc/{parent_of(pid)}/root/run/kata-agent/containers/{container}"))
            os.kill(pid, signal.SIGKILL)
            assert await asyncio.to_thread(agent.process.wait, 20) == 0
            reason = f"{container}/state.json has version 9, this agent knows 1"
            told = read_text(agent.log)
            assert "ends because the agent cannot go on, and there is no other code: " in told
            assert told.count("agent ended: ") == 1, "it was tried again, which changes nothing"
            assert reason in told

    run_async(body(), timeout_s=LIMIT_S)


def test_check_only_changes_nothing_and_a_packed_folder_is_as_good(tmp_path: Path) -> None:
    async def body() -> None:
        async with native_agent(tmp_path, supervised=True) as agent:
            pid = agent.agent_pid()
            with pack_code(copy_code(tmp_path / "code")) as archive:
                checked = await ask(agent, "Upgrade", path=str(archive), check_only=True)
                assert checked.version == "0.1.0"
                assert agent.agent_pid() == pid
                boot = await change(agent, archive)
            assert boot.life == 2
            assert boot.code != checked.code

    run_async(body(), timeout_s=LIMIT_S)


def test_a_stand_alone_agent_says_that_it_cannot(tmp_path: Path) -> None:
    async def body() -> None:
        async with native_agent(tmp_path) as agent:
            with pytest.raises(StatusError) as caught:
                await ask(agent, "Upgrade", path=str(tmp_path))
            assert caught.value.code is Code.UNIMPLEMENTED
            assert "no PID 1" in caught.value.message

    run_async(body(), timeout_s=LIMIT_S)


def test_the_tool_upgrades_refuses_and_tells_programs(tmp_path: Path) -> None:
    async def body() -> None:
        async with native_agent(tmp_path, supervised=True) as agent:
            code = copy_code(tmp_path / "code")
            told = await tool(agent, "upgrade", "--check", str(code))
            assert told == "version 0.1.0 can take over\n"
            boot = json.loads(await tool(agent, "upgrade", "--json", str(code)))
            assert (boot["life"], boot["code"]) == (2, "/run/kata-agent/code/1.2")
            other = copy_code(
                tmp_path / "other", kata_agent__version=("STATE_KNOWN = (1,)", "STATE_KNOWN = ()")
            )
            told = await tool(agent, "upgrade", str(other), status=1)
            assert "is refused, this agent goes on: the agent's state has version 1" in told
            told = await tool(agent, "upgrade", "--in-guest", "/no/such/folder", status=1)
            assert "/no/such/folder is not there in the guest" in told
            assert "agent upgraded  life 2: it runs from /run/kata-agent/code/1.2" in await tool(
                agent, "events"
            )

    run_async(body(), timeout_s=LIMIT_S)


async def tool(agent: NativeAgent, *words: str, status: int = 0) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "kata_host.cli.main", *words, "--server-address", str(agent.address)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == status, output.decode()
    return output.decode()
