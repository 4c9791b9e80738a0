"""The life of a container as a table: every verb tried in every state, on the real thing."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kata_protocols.aio.client import ConnectionLostError
from kata_protocols.gen import oci_pb2
from kata_protocols.status import StatusError
from kata_testing.native import NEEDS, NativeAgent, fresh_id, native_agent, oci_process, oci_spec
from kata_testing.wire import run_async

pytestmark = pytest.mark.requires(*NEEDS)

STATES = ("absent", "created", "running", "paused", "paused before its start", "ended", "removed")
UNKNOWN = r"^Invalid container id '.*': it does not exist$"
QUOTED = r'^"invalid container id"$'
OK = ""


def wrong(verb: str, state: str) -> str:
    return rf"^failed to {verb} container .*: it is {state}, not "


# What each verb answers in the states above, in their order: OK, or what the error's text is like.
TABLE: dict[str, tuple[str, ...]] = {
    "create": (OK, *[r"^container .* already exists$"] * 5, OK),
    "start": (
        UNKNOWN,
        OK,
        wrong("start", "running"),
        wrong("start", "paused"),
        wrong("start", "paused before its start"),
        wrong("start", "running"),
        UNKNOWN,
    ),
    "exec": (
        UNKNOWN,
        OK,
        OK,
        wrong("exec", "paused"),
        wrong("exec", "paused before its start"),
        r"crun exec: ",  # nobody is there to join
        UNKNOWN,
    ),
    "signal": (UNKNOWN, OK, OK, OK, OK, OK, UNKNOWN),
    "kill all": (UNKNOWN, OK, OK, OK, OK, OK, UNKNOWN),
    "update": (QUOTED, OK, OK, OK, OK, OK, QUOTED),
    "stats": (QUOTED, OK, OK, OK, OK, OK, QUOTED),
    "pause": (
        QUOTED,
        OK,
        OK,
        wrong("pause", "paused"),
        wrong("pause", "paused before its start"),
        OK,
        QUOTED,
    ),
    "resume": (
        QUOTED,
        wrong("resume", "created"),
        wrong("resume", "running"),
        OK,
        OK,
        wrong("resume", "running"),
        QUOTED,
    ),
    "write": (UNKNOWN, OK, OK, OK, OK, r"EPIPE|closed|gone|ended", UNKNOWN),
    "resize": (UNKNOWN, *["no tty"] * 5, UNKNOWN),
    "remove": (UNKNOWN, OK, OK, OK, OK, OK, UNKNOWN),
}
# Whether a kill and a wait after the verb still find the process; a wait of what is not there is refused.
WAITABLE = ("created", "running", "paused", "paused before its start", "ended")


async def bring(agent: NativeAgent, state: str) -> str:
    """A container in this state."""
    container = fresh_id("life")
    if state == "absent":
        return container
    program = ("true",) if state == "ended" else ("sleep", "1000")
    await agent.create(container, *program)
    if state not in ("created", "paused before its start"):
        await agent.call("StartContainer", container_id=container)
    if state == "ended":
        await agent.wait(container)
    if state.startswith("paused"):
        await agent.call("PauseContainer", container_id=container)
    if state == "removed":
        await agent.remove(container)
    return container


CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "create": ("CreateContainer", {}),
    "start": ("StartContainer", {}),
    "exec": ("ExecProcess", {"exec_id": "e", "process": oci_process("true")}),
    "signal": ("SignalProcess", {"signal": signal.SIGTERM}),
    "kill all": ("SignalProcess", {"signal": signal.SIGKILL}),
    "update": ("UpdateContainer", {"resources": oci_pb2.LinuxResources()}),
    "stats": ("StatsContainer", {}),
    "pause": ("PauseContainer", {}),
    "resume": ("ResumeContainer", {}),
    "write": ("WriteStdin", {"data": b"x"}),
    "resize": ("TtyWinResize", {"row": 1, "column": 1}),
    "remove": ("RemoveContainer", {}),
}


async def do(agent: NativeAgent, verb: str, container: str) -> None:
    """The verb's call."""
    method, fields = CALLS[verb]
    fields = {"container_id": container, **fields}
    if verb == "signal":
        fields["exec_id"] = container
    if verb == "create":
        fields["OCI"] = oci_spec("true")
    await agent.call(method, **fields)


async def try_pair(agent: NativeAgent, state: str, verb: str, expected: str) -> str:
    """Empty when the pair does what the table says, else what it did. The container can be removed in any case."""
    container = await bring(agent, state)
    answer = OK
    try:
        await do(agent, verb, container)
    except StatusError as error:
        answer = error.message or "an error without text"
    if expected == OK:
        found = "" if answer == OK else answer
    else:
        found = "" if re.search(expected, answer) else answer or "it was allowed"
    left = (state in WAITABLE or verb == "create") and verb != "remove"
    try:
        await agent.call("RemoveContainer", container_id=container)
    except StatusError as error:
        if left:
            found += f"; then its removal failed: {error.message}"
    else:
        if not left:
            found += "; then there was something to remove"
    if container in agent.made:
        agent.made.remove(container)
    return found and f"{verb} of a container that is {state}: {found}"


@pytest.mark.parametrize("state", STATES)
def test_every_verb_does_in_this_state_what_the_table_says(tmp_path, state):
    async def body():
        async with native_agent(tmp_path) as agent:
            column = STATES.index(state)
            answers = [await try_pair(agent, state, verb, row[column]) for verb, row in TABLE.items()]
            assert [answer for answer in answers if answer] == []

    run_async(body())


def test_the_table_is_whole():
    assert {verb: len(row) for verb, row in TABLE.items()} == dict.fromkeys(TABLE, len(STATES))


@asynccontextmanager
async def under_way(agent: NativeAgent, folder: Path, kind: str) -> AsyncIterator[tuple[str, Path]]:
    """A container whose create (`Prestart`) or removal (`Poststop`) waits in a hook, until the path is written to."""
    entered, leave = folder / "entered", folder / "leave"
    for path in (entered, leave):
        path.unlink(missing_ok=True)
        os.mkfifo(path)
    spec = oci_spec("sleep", "1000")
    script = f"echo > {entered}; read x < {leave}"
    getattr(spec.Hooks, kind).append(oci_pb2.Hook(Path="/bin/sh", Args=["sh", "-c", script], Timeout=60))
    container = fresh_id("underway")
    other = agent.another()
    create = other.call("CreateContainer", container_id=container, OCI=spec)
    async with asyncio.TaskGroup() as group:
        if kind == "Poststop":
            await create
            await other.call("StartContainer", container_id=container)
            create = other.call("RemoveContainer", container_id=container)
        group.create_task(create)
        await asyncio.to_thread(entered.read_text)
        yield container, leave


# While a create, or a removal, waits for a hook: what is answered at once.
AT_ONCE = {
    "create": (r"^container .* already exists$",) * 2,
    "exec": (wrong("exec", "creating"), wrong("exec", "stopped")),
    "signal": (OK, OK),
    "stats": (r"failed to get stats of container .*: it is creating", OK),
    "resize": ("no tty", "no tty"),
}
# What waits for its turn, and what it answers then.
IN_TURN = {
    "start": (OK, wrong("start", "stopped")),
    "update": (OK, wrong("update", "stopped")),
    "pause": (OK, wrong("pause", "stopped")),
    "resume": (wrong("resume", "created"), wrong("resume", "stopped")),
    "remove": (OK, UNKNOWN),
}
KINDS = ("Prestart", "Poststop")


async def answer_of(agent: NativeAgent, verb: str, container: str) -> str:
    try:
        await do(agent, verb, container)
    except StatusError as error:
        return error.message or "an error without text"
    return OK


@pytest.mark.parametrize("kind", KINDS, ids=["creating", "being removed"])
def test_what_needs_no_turn_is_answered_while_a_create_or_a_removal_waits_for_a_hook(tmp_path, kind):
    async def body():
        async with native_agent(tmp_path) as agent:
            async with under_way(agent, tmp_path, kind) as (container, leave):
                answers = {verb: await answer_of(agent, verb, container) for verb in AT_ONCE}
                await asyncio.to_thread(leave.write_text, "now\n")
            for verb, expected in AT_ONCE.items():
                wanted = expected[KINDS.index(kind)]
                assert re.search(wanted, answers[verb]) if wanted else answers[verb] == OK, (
                    verb,
                    answers[verb],
                )
            if kind == "Prestart":
                await agent.call("RemoveContainer", container_id=container)

    run_async(body())


@pytest.mark.parametrize("kind", KINDS, ids=["creating", "being removed"])
@pytest.mark.parametrize("verb", IN_TURN)
def test_what_changes_a_container_waits_for_the_create_or_the_removal_that_is_under_way(tmp_path, verb, kind):
    async def body():
        async with native_agent(tmp_path) as agent:
            asking = agent.another()
            await asking.check()  # so that it is asked before what follows here
            async with asyncio.TaskGroup() as group, under_way(agent, tmp_path, kind) as (container, leave):
                answer = group.create_task(answer_of(asking, verb, container))
                for _ in range(3):
                    await agent.check()  # the agent had its turns, and did not answer
                assert not answer.done()
                await asyncio.to_thread(leave.write_text, "now\n")
            wanted = IN_TURN[verb][KINDS.index(kind)]
            found = answer.result()
            assert re.search(wanted, found) if wanted else found == OK, found
            if kind == "Prestart" and verb != "remove":
                await agent.call("RemoveContainer", container_id=container)

    run_async(body())


def test_every_verb_of_the_table_is_tried_under_way_too():
    # A write waits for a reader, as ever. Killing all has a test of its own: it ends the create.
    assert {*AT_ONCE, *IN_TURN, "write", "kill all"} == set(TABLE)


def test_killing_all_of_a_container_that_is_being_made_fails_its_create_and_leaves_nothing(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            try:
                async with under_way(agent, tmp_path, "Prestart") as (container, leave):
                    assert await answer_of(agent, "kill all", container) == OK
                    await asyncio.to_thread(leave.write_text, "now\n")
            except* StatusError as group:
                (error,) = group.exceptions
                assert "crun create" in str(error)
            else:
                raise AssertionError("the create did not fail")
            await agent.create(container, "true")  # the id and the group are free again

    run_async(body())


def test_what_a_killed_agent_was_removing_is_gone_for_hosts_and_its_id_is_free_when_it_really_is(tmp_path):
    async def body():
        async with native_agent(tmp_path, supervised=True) as agent:
            client = await agent.client()
            try:
                async with under_way(agent, tmp_path, "Poststop") as (container, leave):
                    os.kill(agent.agent_pid(), signal.SIGKILL)
                    await client.wait_closed()
            except* ConnectionLostError:
                pass  # the removal's answer
            await asyncio.to_thread(
                (tmp_path / "entered").read_text
            )  # the next agent's removal is in the hook
            for verb in (
                "start",
                "exec",
                "signal",
                "stats",
                "write",
            ):  # answered: the API does not wait for it
                expected = TABLE[verb][STATES.index("removed")]
                assert re.search(expected, await answer_of(agent, verb, container)), verb
            asking = agent.another()
            await asking.check()  # so that it is asked before what follows here
            async with asyncio.TaskGroup() as group:
                made = group.create_task(answer_of(asking, "create", container))
                for _ in range(3):
                    await agent.check()  # the agent had its turns, and did not answer
                assert not made.done()
                await asyncio.to_thread(leave.write_text, "now\n")
            assert made.result() == OK
            await agent.call("StartContainer", container_id=container)
            assert await agent.wait(container) == 0
            await agent.call("RemoveContainer", container_id=container)

    run_async(body(), timeout_s=60)


@pytest.mark.parametrize("state", WAITABLE)
def test_a_wait_begun_in_any_state_ends_with_the_status(tmp_path, state):
    async def body():
        async with native_agent(tmp_path) as agent:
            container = await bring(agent, state)
            await agent.call("SignalProcess", container_id=container, signal=signal.SIGKILL)
            expected = 0 if state == "ended" else signal.SIGKILL
            assert [await agent.wait(container) for _ in range(2)] == [expected, expected]
            await agent.remove(container)

    run_async(body())


def test_a_removal_tells_all_that_it_could_not_undo_and_can_be_asked_again(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            container = await agent.run("true")
            folder = f"/run/kata-containers/{container}/busy"
            await inside(agent, f"mkdir {folder} && mount -t tmpfs none {folder}")
            with pytest.raises(StatusError) as caught:
                await agent.call("RemoveContainer", container_id=container)
            assert re.search(rf"could not remove the bundle: .*{folder}: EBUSY", caught.value.message)
            assert f"sys/fs/cgroup/{container}" not in await inside(
                agent, f"ls -d /sys/fs/cgroup/{container} || true"
            )
            assert f"{container}/rootfs" not in await inside(agent, "cat /proc/self/mounts")
            await inside(agent, f"umount {folder}")
            await agent.remove(container)
            assert container not in await inside(agent, "ls /run/kata-containers; cat /proc/self/mounts")

    run_async(body())


def test_fifty_containers_are_made_signalled_and_removed_in_parallel(tmp_path):
    async def life(agent: NativeAgent, number: int) -> int:
        container = await agent.run(
            "sh", "-c", f"trap 'exit {number}' TERM; echo ready; while :; do sleep 1; done"
        )
        assert await agent.read(container) == b"ready\n"
        await agent.call("SignalProcess", container_id=container, signal=signal.SIGTERM)
        status = await agent.wait(container)
        await agent.remove(container)
        return status

    async def body():
        async with native_agent(tmp_path) as agent:
            await agent.remove(await agent.run("true"))
            before = agent.open_fds()
            async with asyncio.TaskGroup() as group:
                lives = [group.create_task(life(agent, number)) for number in range(50)]
            assert [task.result() for task in lives] == list(range(50))
            assert agent.open_fds() == before
            assert await inside(agent, "ls /run/kata-agent/containers /run/kata-agent/crun") == (
                "/run/kata-agent/containers:\n\n/run/kata-agent/crun:\n"
            )

    run_async(body())


async def inside(agent: NativeAgent, script: str) -> str:
    """What a shell says in the agent's mount namespace."""
    shell = await asyncio.create_subprocess_exec(
        *("nsenter", "--mount", "--target", str(agent.agent_pid()), "sh", "-c", script),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await shell.communicate()
    assert shell.returncode == 0, script
    return output.decode()
