"""The processes of a machine: stopped with their whole group, gone with their parent, their ends told."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kata_host.vm.process import Child, ChildFailed, read_tail, run_while_alive
from kata_testing.fake_host import run

END_TIMEOUT_S = 60
GRANDCHILD = "sleep 1000 & echo $! > $0; wait"


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


async def read_line(fifo: Path) -> str:
    """What a child writes to a fifo once it is ready."""
    return (await asyncio.to_thread(fifo.read_text)).strip()


def test_leaving_the_context_ends_the_whole_group(tmp_path: Path, fifo: Path) -> None:
    async def live() -> tuple[int, int]:
        async with Child("sh", ["sh", "-c", GRANDCHILD, str(fifo)], log=tmp_path / "log") as child:
            grandchild = os.pidfd_open(int(await read_line(fifo)))
            assert is_alive(child.pid)
            assert not select.select([grandchild], [], [], 0)[0]
        return child.pid, grandchild

    pid, grandchild = run(live())
    assert not is_alive(pid)
    assert select.select([grandchild], [], [], END_TIMEOUT_S)[0], "the grandchild outlived its group's leader"
    os.close(grandchild)


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path, fifo: Path) -> None:
    script = "trap '' TERM; echo ready > $0; sleep 1000"

    async def live() -> int | None:
        async with Child("sh", ["sh", "-c", script, str(fifo)], log=tmp_path / "log") as child:
            await read_line(fifo)
            await child.stop(grace_s=0.05)
        return child.returncode

    assert run(live()) == -signal.SIGKILL


def test_a_child_is_ended_when_its_context_is_cancelled(tmp_path: Path) -> None:
    async def live() -> int:
        async with Child("sleep", ["sleep", "1000"], log=tmp_path / "log") as child:
            try:
                async with asyncio.timeout(0.01):
                    await child.wait()
            except TimeoutError:
                pass
        return child.pid

    assert not is_alive(run(live()))


def test_a_child_ends_when_its_parent_is_killed_with_sigkill(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys; from pathlib import Path; from kata_host.vm.process import Child\n"
        "async def main():\n"
        "    child = Child('sleep', ['sleep', '1000'], log=Path(sys.argv[1]))\n"
        "    print(child.pid, flush=True)\n"
        "    await child.wait()\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "log")], stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        pidfd = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
    ended = select.select([pidfd], [], [], END_TIMEOUT_S)[0]
    os.close(pidfd)
    assert ended


def test_how_a_child_ended_is_told_with_its_last_words(tmp_path: Path) -> None:
    async def end(script: str) -> str:
        log = tmp_path / "log"
        log.unlink(missing_ok=True)
        async with Child("helper", ["sh", "-c", script], log=log) as child:
            await child.wait()
            return child.describe_end()

    assert run(end("echo no room >&2; exit 3")) == "helper exited with 3:\nno room"
    assert run(end("kill -SEGV $$")) == "helper was killed by SIGSEGV and printed nothing"


def test_work_is_given_up_when_a_child_that_it_needs_ends(tmp_path: Path) -> None:
    async def wait_for_ever() -> None:
        await asyncio.Event().wait()

    async def live() -> None:
        async with Child("helper", ["sh", "-c", "echo gone; exit 4"], log=tmp_path / "log") as child:
            await run_while_alive(wait_for_ever(), child)

    with pytest.raises(ChildFailed, match="helper exited with 4:\ngone"):
        run(live())


def test_works_result_and_error_pass_through(tmp_path: Path) -> None:
    async def answer() -> int:
        return 7

    async def fail() -> int:
        raise LookupError("mine")

    async def live() -> int:
        async with Child("sleep", ["sleep", "1000"], log=tmp_path / "log") as child:
            with pytest.raises(LookupError, match="mine"):
                await run_while_alive(fail(), child)
            return await run_while_alive(answer(), child)

    assert run(live()) == 7


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    async def live() -> None:
        async with Child("true", ["true"], log=tmp_path / "log") as child:
            await child.wait()

    before = set(os.listdir("/proc/self/fd"))
    run(live())
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_tail_is_the_last_lines_that_say_something(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a\nb\n\nc  \n\n")
    assert read_tail(tmp_path / "log", 2) == "b\nc"
    assert read_tail(tmp_path / "absent", 2) == ""
