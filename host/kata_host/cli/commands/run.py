"""`kata-agent-ctl run`: boot a machine, run one command in a container, pass its streams and exit status through."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from kata_host.cli.copies import add_copy_options, wants_copy
from kata_host.cli.errors import EXIT_FAILURE, EXIT_USAGE, CliError
from kata_host.cli.interrupt import find_cause, forward_to
from kata_host.cli.machine import add_machine_options, read_config
from kata_host.cli.progress import Progress
from kata_host.cli.run_machine import Machine, Root, open_booted, open_copied
from kata_host.cli.stdio import Input, copy_in, copy_out
from kata_host.cli.terminal import on_resize, raw_mode, read_size
from kata_host.cli.timeline import format_table, plan_rows
from kata_host.client import Caller
from kata_host.connect import connect
from kata_host.guest import find_default_rootfs
from kata_host.own_streams import STREAM_PORT, OwnStreams, find_stream_address
from kata_host.sandbox import Container, Sandbox, end_container, open_sandbox
from kata_host.spec import BindMount, ProcessPlan, plan_spec
from kata_host.vm.base import GUEST_SHARE, Timeline
from kata_protocols.aio.client import ConnectionLostError
from kata_protocols.status import StatusError

_END_TIMEOUT_S = 10.0  # for killing and removing the container; who pressed Ctrl-C twice waits no longer
_STDIN, _STDOUT, _STDERR = 0, 1, 2
STREAM_KERNEL_ARG = f"agent.passfd_listener_port={STREAM_PORT}"

# crun says EPERM of a file that is no program, and so of a folder.
_CANNOT_RUN = (("ENOENT", 127), ("EACCES", 126), ("not executable: EPERM", 126), ("regular file: EPERM", 126))

# Without a COMMAND: what a newcomer wants to see. The guest's own /proc is shown under /mnt for it, read-only.
_GUEST_PROC = BindMount("/proc", "/mnt", ("rbind", "ro"))
_DEMO = """
show() { echo "$1 $(cat /mnt/$2/comm): $(tr '\\0' ' ' < /mnt/$2/cmdline)"; }
echo "kernel       $(uname -sr)"
echo "uptime       $(cut -d' ' -f1 /proc/uptime) s since the kernel started"
show "guest pid 1 " 1
for process in /mnt/[0-9]*; do
  read -r name < $process/comm && [ "$name" = kata-agent ] && show "guest agent " ${process#/mnt/}
done
echo "my pid 1     $(cat /proc/1/comm)"
echo "my cgroup    $(cat /proc/self/cgroup)"
echo "my mounts"
sed 's/^/  /' /proc/mounts
""".strip()

_EPILOG = """examples:
  kata-agent-ctl run                                        show kernel, PID 1, mounts and timing from inside
  kata-agent-ctl run -- sh -c 'exit 7'; echo $?             the exit status is the command's: 7
  tar c . | kata-agent-ctl run -- tar t                     standard input passes through
  kata-agent-ctl run --tty -- sh                            a shell; exit or Ctrl-D ends it and the VM
  kata-agent-ctl run --rootfs /srv/alpine --env A=b -- env  another root file system
  kata-agent-ctl run --template small -- uname -a           in a copy of a saved VM (vm template create small)

Ctrl-C goes to the command (status 130 if that ends it); a second one ends everything."""


def parse_variable(text: str) -> str:
    """One variable of the command's environment. Pure."""
    if not text.partition("=")[0] or "=" not in text:
        raise argparse.ArgumentTypeError(f"{text!r}: write KEY=VALUE")
    return text


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The verb's command line."""
    parser = verbs.add_parser(
        "run", help="boot a VM and run a command in a container", epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "--rootfs", type=Path, metavar="DIR", help="root file system (default: the build's busybox)"
    )
    parser.add_argument("--tty", "-t", action="store_true", help="give the command a terminal")
    parser.add_argument(
        "--stdio", choices=("rpc", "vsock"), default="rpc",
        help="how the streams travel: by calls (default), or on vsock connections of their own",
    )  # fmt: skip
    parser.add_argument(
        "--env",
        "-e",
        action="append",
        type=parse_variable,
        default=[],
        metavar="KEY=VALUE",
        help="environment",
    )
    parser.add_argument("--cwd", default="/", metavar="DIR", help="where the command starts (default /)")
    parser.add_argument(
        "--read-write",
        action="store_true",
        help="let it change the root file system (of a copy: a layer that ends with it)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the time line as JSON on standard error at the end"
    )
    add_copy_options(parser)
    add_machine_options(parser)
    parser.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="command and arguments"
    )
    parser.set_defaults(run=run)


async def run(options: argparse.Namespace) -> int:
    """Run it; the command's exit status."""
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    timeline = Timeline()
    with Progress() as progress:
        progress.show("boot")
        timeline.listener = lambda stamp: progress.show(f"boot: {stamp.event}")
        async with _open_machine(options, timeline) as (vm, root):
            spec = plan_run(options, command, root.path)
            try:
                status = await _run_in(vm, root, spec, options, progress)
            except (ConnectionLostError, BaseExceptionGroup) as exc:
                if isinstance(cause := find_cause(exc), ConnectionLostError):
                    raise await vm.explain_loss(cause) from None
                raise
        if not command:
            print(f"\ntime line (the guest ran under {vm.accelerator.name}: {vm.accelerator.reason})")
            print(format_table(plan_rows(timeline)))
        if options.json:
            print(json.dumps({"status": status, "timeline": plan_rows(timeline)}), file=sys.stderr)
    return status


def _open_machine(
    options: argparse.Namespace, timeline: Timeline
) -> AbstractAsyncContextManager[tuple[Machine, Root]]:
    if options.rootfs is not None and not options.rootfs.is_dir():
        raise CliError(f"--rootfs {options.rootfs}: no folder is there", EXIT_USAGE)
    if wants_copy(options):
        return open_copied(options, timeline)
    config = read_config(options, share=None)
    config = replace(config, share=options.rootfs or find_default_rootfs(config.guest))
    if options.stdio == "vsock":
        if config.channel == "serial":
            raise CliError("--stdio vsock with --channel serial: that machine has no vsock", EXIT_USAGE)
        kernel_args = (*config.kernel_args, STREAM_KERNEL_ARG)
        config = replace(config, channel="vsock", kernel_args=kernel_args)
    return open_booted(config, timeline)


def plan_run(options: argparse.Namespace, command: list[str], root: str = GUEST_SHARE) -> dict[str, object]:
    """The container's specification."""
    plan = ProcessPlan(
        args=command or ["sh", "-c", _DEMO], env=tuple(options.env), cwd=options.cwd, terminal=options.tty
    )
    binds = () if command else (_GUEST_PROC,)
    return plan_spec(plan, root, writable=options.read_write, binds=binds)


async def _run_in(
    vm: Machine, root: Root, spec: dict[str, object], options: argparse.Namespace, progress: Progress
) -> int:
    mark = vm.timeline.mark
    async with (
        await connect(vm.address) as client,
        open_sandbox(client, share=root.is_share, note=mark) as sandbox,
    ):
        async with (
            _own_streams(vm, client.caller, options) as own,
            _created(sandbox, root, spec, own) as container,
        ):
            mark("container created")
            if options.tty:
                await _set_size(container)  # a command may ask for it as the first thing it does
            await container.start()
            vm.timeline.listener = None
            progress.clear()
            mark("container started")
            streams = _by_calls(container) if own is None else _by_connections(own)
            status = await (_drive_tty(container, streams) if options.tty else _drive(container, streams))
            mark("container ended")
        return status


class _Streams(NamedTuple):
    """Where input goes and outputs come from, however they travel."""

    stdin: Input
    stdout: AsyncIterator[bytes]
    stderr: AsyncIterator[bytes] | None


def _by_calls(container: Container) -> _Streams:
    return _Streams(container, container.read_stdout(), container.read_stderr())


def _by_connections(own: OwnStreams) -> _Streams:
    stderr = own.read("stderr") if "stderr_port" in own.ports else None
    return _Streams(own, own.read("stdout"), stderr)


@asynccontextmanager
async def _own_streams(
    vm: Machine, agent: Caller, options: argparse.Namespace
) -> AsyncIterator[OwnStreams | None]:
    """The connections that `--stdio vsock` asks for."""
    if options.stdio != "vsock":
        yield None
        return
    names = ("stdin", "stdout") if options.tty else ("stdin", "stdout", "stderr")
    with await OwnStreams.open(find_stream_address(vm.address), names, agent=agent) as own:
        yield own


@asynccontextmanager
async def _created(
    sandbox: Sandbox, root: Root, spec: dict[str, object], own: OwnStreams | None
) -> AsyncIterator[Container]:
    """The container; a command that cannot be run ends with the shell's own status for it."""
    try:
        ports = own.ports if own is not None else None
        container = await sandbox.create(spec, root.container_id, storages=root.storages, ports=ports)
    except StatusError as exc:
        status = next((status for errno, status in _CANNOT_RUN if errno in exc.message), EXIT_FAILURE)
        raise CliError(exc.message, status) from exc
    try:
        yield container
    finally:
        try:
            async with asyncio.timeout(_END_TIMEOUT_S):
                await end_container(container)
        except TimeoutError:
            pass  # a guest that answers no more: its machine is stopped next, and the container with it


async def _drive(container: Container, streams: _Streams) -> int:
    """Move the streams until both outputs end, then ask for the exit status, as Kata's runtime does."""
    forwarded: list[int] = []
    async with asyncio.TaskGroup() as group:

        def forward(number: int) -> None:
            forwarded.append(number)
            group.create_task(container.signal_all(number))

        with forward_to(forward):
            feeding = group.create_task(copy_in(_STDIN, streams.stdin))
            outputs = [group.create_task(copy_out(streams.stdout, _STDOUT))]
            if streams.stderr is not None:
                outputs.append(group.create_task(copy_out(streams.stderr, _STDERR)))
            await asyncio.wait(outputs, return_when=asyncio.FIRST_EXCEPTION)
            status = await container.wait()
            feeding.cancel()
    # The wire has the bare number of a signal that killed; only of one that we sent do we know that it is no exit code.
    return 128 + status if status in forwarded else status


async def _drive_tty(container: Container, streams: _Streams) -> int:
    """The same for a terminal: one output, keys as they are, the window's size whenever it changes."""
    async with asyncio.TaskGroup() as group:

        def changed() -> None:
            group.create_task(_set_size(container))

        with raw_mode(_STDIN), on_resize(changed):
            await _set_size(container)  # it may have changed before anybody heard of it
            feeding = group.create_task(copy_in(_STDIN, streams.stdin))
            await copy_out(streams.stdout, _STDOUT)
            status = await container.wait()
            feeding.cancel()
    return status


async def _set_size(container: Container) -> None:
    """Give the container's terminal this window's size, if there is a window."""
    if (size := read_size(_STDIN)) is not None:
        try:
            await container.resize(*size)
        except StatusError:
            return  # it has ended in the meantime
