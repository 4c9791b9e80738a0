"""A container's entry: ids, processes by exec id, what is kept; undo; the state file."""

from __future__ import annotations

import asyncio

import pytest

from kata_agent.containers import state, statefile
from kata_agent.containers.container import KEPT_EXECS, Container, check_container_id
from kata_agent.containers.undo import Undo, finish
from kata_agent.errors import AlreadyExists, InvalidRequest, UnknownProcess
from kata_testing.wire import outcome, run_async


@pytest.mark.parametrize("name", ["ab", "a1", "9-x", "a.b_c-d", "ä1", "a" * 255])
def test_a_good_id(name):
    check_container_id(name)


@pytest.mark.parametrize(
    "name", ["", "a", ".a", "-a", "a/b", "a b", "..", "a\0", "a" * 256, "ä" * 128, "a\n", "shared"]
)
def test_a_bad_id_is_named(name):
    with pytest.raises(InvalidRequest, match="Invalid container id"):
        check_container_id(name)


def test_init_answers_to_no_exec_id_and_to_the_containers():
    container = Container("c1")
    with pytest.raises(UnknownProcess):
        container.process("")
    init = container.add_process("c1")
    assert container.process("") is container.process("c1") is container.init is init


def test_an_exec_id_is_taken_once():
    container = Container("c1")
    container.add_process("e")
    with pytest.raises(AlreadyExists, match="'e' already exists"):
        container.add_process("e")
    with pytest.raises(InvalidRequest, match="Invalid exec id"):
        container.add_process("a\0")


def test_only_ended_execs_that_were_waited_for_are_surplus_oldest_first():
    container = Container("c1")
    container.add_process("c1").waited = True
    execs = [container.add_process(f"e{number}") for number in range(KEPT_EXECS + 3)]
    for process in execs[1:]:
        process.waited = True
    assert container.surplus() == execs[1:3]


def test_the_state_file_holds_what_the_next_agent_needs(tmp_path):
    assert statefile.load(str(tmp_path)) is None
    container = Container("c1")
    container.cgroup, container.storages = "/x", ("s1", "s2")
    container.hooks, container.annotations = {"poststop": [{"path": "/h"}]}, {"a": "b"}
    container.root_mounted = False
    container.process_spec, container.shares_pids = {"args": ["a"]}, True
    container.advance("created")
    container.add_process("c1").pid = 17
    exec_ = container.add_process("e")
    exec_.start_time, exec_.terminal = 99, True
    statefile.save(container, str(tmp_path))
    loaded = statefile.load(str(tmp_path))
    assert loaded is not None
    for field in (
        "id",
        "state",
        "cgroup",
        "hooks",
        "annotations",
        "storages",
        "root_mounted",
        "process_spec",
        "shares_pids",
    ):
        assert getattr(loaded, field) == getattr(container, field), field
    assert loaded.init.pid == 17
    assert (loaded.process("e").number, loaded.process("e").start_time, loaded.process("e").terminal) == (
        1,
        99,
        True,
    )
    assert loaded.add_process("new").number == 2
    assert loaded.state == state.CREATED


def test_undo_runs_in_reverse_and_tries_every_step():
    async def body():
        done = []

        async def later():
            done.append("later")

        def broken():
            raise OSError("stuck")

        undo = Undo()
        undo.push("first", lambda: done.append("first"))
        undo.push("broken", broken)
        undo.push("later", later)
        failed = await undo.unwind()
        assert done == ["later", "first"]
        assert [(what, str(error)) for what, error in failed] == [("broken", "stuck")]
        assert await undo.unwind() == []

    run_async(body())


def test_work_is_finished_though_its_caller_is_cancelled_more_than_once():
    async def body():
        async with asyncio.TaskGroup() as group:
            go, done = asyncio.Event(), []

            async def work():
                await go.wait()
                done.append(True)

            caller = group.create_task(finish(group, work))
            for _ in range(3):
                await asyncio.sleep(0)
                caller.cancel()
            await asyncio.sleep(0)
            assert not caller.done()
            go.set()
            with pytest.raises(asyncio.CancelledError):
                await caller
            assert done == [True]

    run_async(body())


def test_the_failure_of_finished_work_is_its_callers_and_not_the_groups():
    async def broken():
        raise InvalidRequest("no")

    async def body():
        async with asyncio.TaskGroup() as group:
            assert isinstance(await outcome(finish(group, broken)), InvalidRequest)

    run_async(body())
