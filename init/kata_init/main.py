"""PID 1's entry point. Nothing leaves `main`: an exception that did would be a kernel panic without a reason.

Owns: the order of everything (docs/boot.md) and the last resort. Must not know: any detail of a step.
"""

from __future__ import annotations

import os
import sys

from kata_init.journal import Journal, describe_failure, write_stderr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from kata_init.plan import Plan

NOT_PID_1 = """\
kata-init is PID 1 of a virtual machine; here it would be process {pid}. To serve without a machine run
`kata-agent`; to try it here: unshare --fork --pid kata-init agent.server_addr=unix:///run/kata.sock"""


def main(life: Callable[[Journal, list[str]], None] | None = None) -> NoReturn:
    """Boot, supervise, switch off (`run`, or another `life`). Never returns and never raises."""
    if os.getpid() != 1:
        write_stderr(NOT_PID_1.format(pid=os.getpid()))
        os._exit(2)
    journal = Journal()
    journal.recall(os.environ.pop("KATA_STAGE_STEPS", ""))
    journal.mark("pid1 start")
    try:
        (life or run)(journal, sys.argv[1:])
    except BaseException as error:  # noqa: BLE001 - PID 1 has nobody above it
        last_resort(journal, error)
    os._exit(0)


def run(journal: Journal, arguments: list[str]) -> None:
    """The life of PID 1; returns only in a pid namespace that is not the machine's."""
    from kata_init import boot
    from kata_init.doorbell import Doorbell
    from kata_init.plan import make_plan
    from kata_linux.cmdline import read_cmdline

    machine = boot.prepare_proc()
    plan = make_plan(read_cmdline() if machine else [], arguments, os.environ)
    listener = None if machine else open_listener(plan, journal)  # before /run is covered by one of our own
    boot.boot(plan, journal, machine=machine)
    for complaint in plan.complaints:
        journal.error(f"command line: {complaint}")
    if machine:
        listener = open_listener(plan, journal)
    doorbell = Doorbell(plan.doorbell, journal)
    doorbell.ring(f"pid1 up {journal.mark('pid1 up')}")
    supervise(plan, journal, doorbell, listener, machine=machine)


def open_listener(plan: Plan, journal: Journal) -> int | None:
    """The listening socket. Without one the agent still runs, and says why nobody can reach it."""
    from kata_init import listen

    try:
        return listen.open_listener(plan.listen)
    except OSError as error:
        journal.error(f"nobody can connect: {error}")
        return None


def supervise(plan: Plan, journal: Journal, doorbell: object, listener: int | None, *, machine: bool) -> None:
    """Have the agent running until the end, then end in order."""
    from kata_init import shutdown
    from kata_init.supervise import LISTEN, Supervisor

    supervisor = Supervisor(plan, journal, doorbell)  # type: ignore[arg-type]
    if listener is not None:
        supervisor.store.put(LISTEN, (listener,))
    journal.info(f"ends because {supervisor.run()}")
    shutdown.end_processes(supervisor)
    shutdown.switch_off(journal, machine=machine)


def last_resort(journal: Journal, error: BaseException) -> None:
    """Say why on every channel there is and switch off: a machine that is off tells more than one that hangs."""
    reason = f"PID 1 failed, switching off: {describe_failure(error)}"
    write_stderr(f"kata-init: {reason}")
    try:
        if not journal.is_open:
            journal.open("/dev/kmsg")
        journal.error(reason)
        from kata_init import shutdown
        from kata_linux import power

        if power.is_initial_pid_namespace():
            shutdown.write_out(journal)
            power.reboot(power.POWER_OFF)
    except BaseException as second:  # noqa: BLE001 - the exit below is what is left
        write_stderr(f"kata-init: cannot switch off: {second}")
    os._exit(1)
