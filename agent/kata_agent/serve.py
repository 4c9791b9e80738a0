"""One life of the agent on the event loop: listen, adopt, serve, end in order.

Owns: the main task group, signals and the order of the end. Must not know: any method. Follows: Kata's agent
3.21, "Start-up" and "Shutdown": hosts look for the last line on standard error.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from kata_agent import errors
from kata_agent.agent import Agent
from kata_agent.busypoll import BusyPollSelector
from kata_agent.dispatch import Dispatcher, format_trace
from kata_agent.log import Log
from kata_agent.policy import open_gate
from kata_agent.processes.exits import ExitBook, attach_reaper
from kata_agent.version import AGENT_VERSION, API_VERSION
from kata_init import exits as reaper
from kata_protocols.aio.server import serve

if TYPE_CHECKING:
    from kata_agent.config import Reading
    from kata_init.control import AgentChannel
    from kata_protocols.aio.server import Server

# Cyclic garbage is rare here (tasks, exceptions); the default of 700 would walk the young objects thousands of
# times in a stream of 32 KiB reads.
GC_THRESHOLDS = (5000, 20, 20)

DRAIN_DEADLINE_S = 5.0
COMPLETE = "kata-agent shutdown complete\n"


def run_alone(reading: Reading) -> int:
    """Serve until DestroySandbox, SIGTERM or SIGINT. The result is the exit status."""
    from kata_agent import standalone

    try:
        standalone.enter_private_world()
        with standalone.open_listener(reading.config.server_address) as listener:
            _run(_serve_alone(reading, listener.socket))
    except Exception as error:
        cause = errors.unwrap(error)
        if errors.is_defect(cause) and not isinstance(cause, ValueError):
            raise
        sys.stderr.write(f"kata-agent: {errors.describe(cause)}\n")
        return 1
    sys.stderr.write(COMPLETE)
    return 0


def run_supervised(channel: AgentChannel, reading: Reading) -> None:
    """Serve until DestroySandbox, then have PID 1 power the guest off."""
    _run(_serve_supervised(channel, reading))


def _run(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(BusyPollSelector())) as runner:
        runner.run(work)


async def _serve_alone(reading: Reading, listener: socket.socket) -> None:
    from kata_agent.standalone import Nobody

    log = make_log(reading)
    book = ExitBook()
    attach_reaper(book, reaper.reap)
    async with asyncio.TaskGroup() as group:
        agent = Agent(
            reading.config, log, group=group, exits=book, host=Nobody(), stored={}, supervised=False
        )
        _stop_on_signals(agent)
        _watch_loop(log)
        agent.open_for_operators()
        agent.listen_for_streams()
        agent.watch_pressure()
        agent.begin_confidential()
        open_gate(agent, agent.owners_policy())
        settle_memory()
        async with serve(
            Dispatcher(agent), [listener], on_error=_reporter(log), grace_s=DRAIN_DEADLINE_S
        ) as server:
            agent.serve_channel(server.serve_connection)
            agent.start_memory_agent()
            await agent.stopping.wait()
            agent.stop_tasks()
            # What was made here ends here: nobody would be left to reap it or to read its output.
            await agent.close()
        await agent.end_channel()


async def _serve_supervised(channel: AgentChannel, reading: Reading) -> None:
    from kata_agent.supervisor import LISTEN, Supervisor

    log = make_log(reading)
    book = ExitBook(forget=channel.forget_exit, limit=None)
    attach_reaper(book, reaper.reap)
    stop = asyncio.Event()
    supervisor = Supervisor(channel, book, log, on_gone=stop.set)
    supervisor.start()
    try:
        await supervisor.wait_synced()
        listeners = [socket.socket(fileno=fd) for fd in supervisor.take(LISTEN)]
        if not listeners:
            log.error("rpc", "PID 1 has no listening socket: nobody can connect")
        async with asyncio.TaskGroup() as group:
            agent = Agent(
                reading.config,
                log,
                group=group,
                exits=book,
                host=supervisor,
                stored=supervisor.stored,
                supervised=True,
                stopping=stop,
                life=supervisor.life,
            )
            agent.init = supervisor
            supervisor.on_late, supervisor.on_lost = agent.note_late, agent.note_lost_exits
            _stop_on_signals(agent)
            _watch_loop(log)
            agent.open_for_operators()
            agent.listen_for_streams()
            agent.watch_pressure()
            try:
                await agent.adopt()
            except errors.UnknownState as error:
                supervisor.unfit(str(error))
                raise
            book.bound()
            agent.begin_confidential()
            open_gate(agent, agent.owners_policy())
            settle_memory()
            dispatcher = Dispatcher(agent)
            async with serve(
                dispatcher, listeners, on_error=_reporter(log), grace_s=DRAIN_DEADLINE_S
            ) as server:
                agent.serve_channel(server.serve_connection)
                supervisor.ready()
                agent.start_memory_agent()
                await stop.wait()
                agent.stop_tasks()
                if agent.drain_s:
                    await _leave(server, agent, log)
            await agent.end_channel()
        sys.stderr.write(COMPLETE)
        if agent.destroyed:
            supervisor.shutdown()
    finally:
        supervisor.close()


async def _leave(server: Server, agent: Agent, log: Log) -> None:
    """End for the next agent: calls in flight are answered, waits are not, and what is left then is as if killed.

    Returns when one of these calls was the sandbox's end: then no agent is to follow.
    """
    done = await server.drain(agent.drain_s, silently=True)
    if agent.destroyed:
        return
    log.info("upgrade", "ends for the next agent", answered=done)
    if agent.channel is not None:
        await agent.channel.settle()
    # an orderly end would take back what is half-made, and may wait for it: the next agent does that
    os._exit(0)


def make_log(reading: Reading) -> Log:
    """The log, with the record that tells which agent this is and what it did not understand."""
    log = Log(1, reading.config.log_level)
    given = {name.replace("_", "-"): value for name, value in reading.config.values.items()}
    log.info("root", "announce", **{"agent-version": AGENT_VERSION, "api-version": API_VERSION, **given})
    for complaint in reading.complaints:
        log.warning("config", "setting not understood", setting=complaint)
    if reading.config.endpoints is not None:
        from kata_agent.endpoints import find_unknown

        for name in find_unknown(reading.config.endpoints):
            log.warning("config", "an allowed endpoint that does not exist", name=name)
    return log


def settle_memory() -> None:
    """What was imported lives as long as the process: the collector need not walk it, nor fork copy it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def _watch_loop(log: Log) -> None:
    """What goes wrong outside every task is told too, in the log's form."""

    def handle(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        trace = format_trace(error) if error else ""
        log.error("loop", context["message"], error=repr(error), trace=trace)

    asyncio.get_running_loop().set_exception_handler(handle)


def _stop_on_signals(agent: Agent) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, agent.stopping.set)


def _reporter(log: Log) -> Callable[[str, BaseException], None]:
    def report(where: str, error: BaseException) -> None:
        text = errors.describe(error)
        log.error("rpc", "unforeseen error", where=where, error=text, trace=format_trace(error))

    return report
