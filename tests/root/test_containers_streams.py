"""Standard streams and terminals of real containers."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from kata_protocols import services
from kata_protocols.status import Code, StatusError
from kata_testing.native import NEEDS, native_agent
from kata_testing.wire import outcome, run_async

pytestmark = [
    pytest.mark.requires(*NEEDS),
    pytest.mark.parametrize("supervised", [False, True], ids=["alone", "supervised"]),
]

MIB = 1 << 20


def test_every_byte_arrives_whatever_the_size_of_reads(tmp_path, supervised):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            lines = "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done"
            noise = "dd if=/dev/urandom of=/tmp/r bs=64k count=48 2>/dev/null; cat /tmp/r; md5sum /tmp/r >&2"
            script = f"{lines}; {noise}"
            container = await agent.run("sh", "-c", script)
            pieces: list[bytes] = []
            size = 1
            while isinstance(piece := await outcome(agent.read(container, limit=size)), bytes):
                assert 1 <= len(piece) <= size
                pieces.append(piece)
                size = (len(pieces) * 7919) % 70000 + 1
            assert isinstance(piece, StatusError)
            assert (piece.code, "eof" in piece.message) == (Code.INTERNAL, True)
            lines = b"".join(b"line %d\n" % n for n in range(2000))
            everything = b"".join(pieces)
            assert everything.startswith(lines)
            digest = hashlib.md5(everything[len(lines) :], usedforsecurity=False).hexdigest()
            assert digest in (await agent.read(container, stream="Stderr")).decode()

    run_async(body())


def test_stdin_holds_back_its_writer_only_and_arrives_whole(tmp_path, supervised):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            container = await agent.run("sh", "-c", "read go; exec md5sum")
            data = bytes(range(256)) * 4096 * 2
            async with asyncio.TaskGroup() as group:
                await agent.call("WriteStdin", container_id=container, data=b"go\n")
                write = group.create_task(agent.call("WriteStdin", container_id=container, data=data))
                await agent.check()
                assert (await write).len == len(data)
            assert (await agent.call("WriteStdin", container_id=container, data=b"")).len == 0
            digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
            assert (await agent.read(container)).decode().startswith(digest)
            assert await agent.wait(container) == 0

    run_async(body())


def test_a_writer_that_waits_delays_no_other_call(tmp_path, supervised):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            container = await agent.run("sleep", "1000")
            async with asyncio.TaskGroup() as group:
                call = agent.call("WriteStdin", container_id=container, data=bytes(MIB))
                stuck = group.create_task(outcome(call))
                await agent.exec(container, "e", "echo", "free")
                assert await agent.read(container, "e") == b"free\n"
                assert not stuck.done()
                await agent.remove(container)
            assert isinstance(stuck.result(), StatusError)

    run_async(body())


def test_closing_stdin_ends_the_input_and_twice_is_fine(tmp_path, supervised):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            container = await agent.run("cat")
            await agent.call("WriteStdin", container_id=container, data=b"last words")
            for _ in range(2):
                await agent.call("CloseStdin", container_id=container)
            assert (await agent.read_all(container))[0] == b"last words"
            with pytest.raises(StatusError, match="Cannot get writer"):
                await agent.call("WriteStdin", container_id=container, data=b"too late")
            with pytest.raises(StatusError) as caught:
                await agent.call("CloseStdin", container_id=container, exec_id="no-such")
            assert caught.value.code == Code.INVALID_ARGUMENT

    run_async(body())


def test_a_read_waits_for_data_and_readers_take_turns(tmp_path, supervised):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            container = await agent.run("cat")
            async with asyncio.TaskGroup() as group:
                readers = [group.create_task(agent.read(container, limit=3)) for _ in range(4)]
                await agent.call("WriteStdin", container_id=container, data=b"abcdefghijkl")
            assert [reader.result() for reader in readers] == [b"abc", b"def", b"ghi", b"jkl"]

    run_async(body())


def test_a_reader_that_vanishes_takes_no_byte_with_it(tmp_path, supervised):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            container = await agent.run("cat")
            read = services.AGENT_SERVICE.methods["ReadStdout"]
            request = read.request_type(container_id=container, exec_id="", len=100)
            fleeting = await agent.dial()
            async with asyncio.TaskGroup() as group:
                reader = group.create_task(outcome(fleeting.call(read, request)))
                await agent.check()
                await fleeting.aclose()
            assert isinstance(reader.result(), ConnectionError)
            await agent.check()
            await agent.call("WriteStdin", container_id=container, data=b"kept")
            assert await agent.read(container) == b"kept"

    run_async(body())


def test_a_terminal_has_a_size_echoes_and_ends(tmp_path, supervised):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            script = "read line; stty size; echo got $line; cat"
            container = await agent.run("sh", "-c", script, Terminal=True)
            await agent.call("TtyWinResize", container_id=container, row=33, column=99)
            await agent.call("WriteStdin", container_id=container, data=b"word\n")
            seen = b""
            while b"got word\r\n" not in seen:
                seen += await agent.read(container)
            assert b"33 99\r\n" in seen
            await agent.call("CloseStdin", container_id=container)
            assert (await agent.read_all(container))[0] == b""
            assert await agent.wait(container) == 0

    run_async(body())


def test_a_process_without_a_terminal_has_no_size(tmp_path, supervised):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            container = await agent.run("sleep", "1000")
            with pytest.raises(StatusError) as caught:
                await agent.call("TtyWinResize", container_id=container, row=1, column=1)
            assert (caught.value.code, caught.value.message) == (Code.UNAVAILABLE, "no tty")

    run_async(body())


def test_stdio_belongs_to_the_user_of_the_process(tmp_path, supervised):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            user = {"UID": 1000, "GID": 1000}
            script = "echo through > /dev/stdout; echo wrong > /dev/stderr"
            container = await agent.run("sh", "-c", script, User=user)
            assert (await agent.read_all(container))[0] == b"through\n"

    run_async(body())
