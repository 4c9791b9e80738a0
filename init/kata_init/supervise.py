"""PID 1's loop: reap, hand exits over, keep descriptors, have an agent running, notice when it is time to end.

Owns: the agent's process, the ledger, the descriptor store, signals. Must not know: what the agent serves, how the
machine is switched off (`shutdown`). Nothing here waits for the agent: every wait is the poll below.
"""

from __future__ import annotations

import os
import select
import time

from kata_init import control, exits
from kata_init.backoff import ATTEMPTS, Backoff
from kata_init.fdstore import FdStore, StoreFullError, close_all
from kata_init.heartbeat import Heartbeat
from kata_init.launch import fork_agent
from kata_init.ledger import Ledger
from kata_init.succession import Succession
from kata_linux import procfs, signalfd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from kata_init.doorbell import Doorbell
    from kata_init.journal import Journal
    from kata_init.plan import Plan

LISTEN = "listen"
_SIGNALS = (signalfd.SIGCHLD, signalfd.SIGTERM, signalfd.SIGINT)
# What a silent agent does, by the letter of /proc/PID/stat.
_SILENCES = {
    "R": "busy: it runs without coming back to its event loop",
    "D": "waiting in the kernel",
    "T": "stopped",
    "t": "stopped by a debugger",
}
_HUNG = "hung: it waits for something else than its event loop"
_SIGNAL_NAMES = {signalfd.SIGTERM: "SIGTERM", signalfd.SIGINT: "SIGINT (Ctrl-Alt-Del)"}


class Supervisor:
    """Everything that PID 1 keeps while the machine runs."""

    def __init__(self, plan: Plan, journal: Journal, doorbell: Doorbell) -> None:
        self._plan = plan
        self._journal = journal
        self._doorbell = doorbell
        self._backoff = Backoff()
        self._heartbeat = Heartbeat(plan.heartbeat_ns, plan.silent_ns)
        self._succession = Succession()
        self._lives = 0
        self._last_end = ""
        self._mask = signalfd.block(_SIGNALS)
        self._signals = signalfd.open_signalfd(_SIGNALS)
        self._channel: control.InitChannel | None = None
        self._start_at_ns: int | None = 0  # None: never again
        self._told_dropped = 0
        self._watched: set[int] = set()
        self.ledger = Ledger()
        self.store = FdStore()
        self.agent_pid = 0
        self.reason = ""
        self.asked_by_agent = False
        self._killed_for = ""
        self._unfit = ""

    def run(self) -> str:
        """Supervise until something ends it; gives the reason."""
        self.serve(lambda: bool(self.reason), None)
        return self.reason

    def stop_restarting(self) -> None:
        """From now on a dead agent stays dead."""
        self._start_at_ns = None

    def is_idle(self) -> bool:
        """Whether the agent has been sent everything that is owed to it, or is gone."""
        return self._channel is None or not self._channel.wants_write

    def collect(self) -> None:
        """Reap what has ended and hand it over."""
        while self._reap_batch():
            self._pump()
        self._pump()

    def serve_until_gone(self, pidfds: list[int], deadline_ns: int) -> bool:
        """Run the loop until all of these have ended; gives whether they have. The descriptors are closed."""
        self._watched = set(pidfds)
        gone = self.serve(lambda: not self._watched, deadline_ns)
        self._watched = set()
        close_all(pidfds)
        self.collect()
        return gone

    def serve(self, is_done: Callable[[], bool], deadline_ns: int | None) -> bool:
        """Run the loop until `is_done` or the deadline (monotonic clock); gives whether it is done."""
        while not is_done():
            if deadline_ns is not None and time.monotonic_ns() >= deadline_ns:
                return False
            self._start_agent_if_due()
            self._poll(deadline_ns)
        return True

    def _poll(self, deadline_ns: int | None) -> None:
        poll = select.poll()
        poll.register(self._signals, select.POLLIN)
        if self._channel is not None:
            events = select.POLLIN | (select.POLLOUT if self._channel.wants_write else 0)
            poll.register(self._channel.fileno(), events)
        for fd in self._doorbell.pending():
            poll.register(fd, select.POLLOUT)
        for fd in self._watched:
            poll.register(fd, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(self._timeout_ms(deadline_ns))}
        self._watched -= ready
        self._doorbell.expire()
        for fd in ready.intersection(self._doorbell.pending()):
            self._doorbell.handle(fd)
        # Before a death is noticed: what the agent sent last must count. And before it is called silent: where this
        # loop itself has been late, the answer is here.
        self._take_packets()
        self._beat()
        if self._signals in ready:
            self._take_signals()
        else:
            self._pump()

    def _timeout_ms(self, deadline_ns: int | None) -> float | None:
        waits = (
            deadline_ns,
            self._start_at_ns if self.agent_pid == 0 else None,
            self._doorbell.next_deadline_ns(),
            self._heartbeat.next_ns(),
            self._succession.next_ns() if self.agent_pid else None,
        )
        known = [moment for moment in waits if moment is not None]
        if not known:
            return None
        return max(0, min(known) - time.monotonic_ns()) / 1e6 + 1  # poll rounds down; too early would spin

    def _take_signals(self) -> None:
        for number, sender in signalfd.read_signals(self._signals):
            if number in _SIGNAL_NAMES:
                self.reason = self.reason or f"{_SIGNAL_NAMES[number]} from process {sender}"
        self.collect()

    def _reap_batch(self) -> bool:
        """Record a batch of exits; whether there may be more."""
        batch = exits.reap()
        for entry in batch:
            if entry.pid == self.agent_pid:
                self._agent_ended(entry)
            else:
                self.ledger.add(entry)
        return len(batch) == exits.BATCH

    def _start_agent_if_due(self) -> None:
        if self.agent_pid or self._start_at_ns is None or time.monotonic_ns() < self._start_at_ns:
            return
        try:
            self._start_agent()
        except OSError as error:  # no memory, no process id, no descriptor: all may be there a moment later
            self._plan_restart(f"cannot be forked: {error}")
        self._pump()

    def _start_agent(self) -> None:
        ours, theirs = control.open_pair()
        try:
            self._journal.mark("agent forked")
            plan, succession = self._plan, self._succession
            outcome = succession.start(time.monotonic_ns())
            self.agent_pid = fork_agent(
                plan.agent_entry, plan.words, theirs, self._mask, plan.log_path, succession.code
            )
            self._lives += 1
            life = control.Life(self._lives, self._last_end, succession.code, outcome)
            self._channel = control.InitChannel(ours, self.ledger, self.store, self._journal.steps, life)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()

    def _agent_ended(self, entry: exits.Exit) -> None:
        self._heartbeat.stop()
        self.agent_pid = 0  # first of all: it is reaped, so the number may be another process's by now
        while self._take_packets():
            pass  # a batch each: what was sent before the end counts, a `store` above all
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        how = f"exit code {entry.code}" if entry.signal is None else f"signal {entry.signal}"
        self._last_end, self._killed_for = self._killed_for or how, ""
        if self.asked_by_agent or self._start_at_ns is None:
            self._journal.info(f"agent ended: {how}")
        else:
            self._plan_successor(how)

    def _plan_successor(self, how: str) -> None:
        """What follows an agent that ended: other code, the code before it, itself, or nobody."""
        succession, unfit = self._succession, self._unfit
        self._unfit = ""
        if succession.is_planned:
            self._journal.info(f"agent ended for its upgrade: {how}")
            self._start_at_ns = time.monotonic_ns()
        elif failed := succession.end(hopeless=bool(unfit)):
            self._last_end = f"the upgrade to {failed} failed: {self._last_end}"
            self._journal.error(
                f"{self._last_end}; the code before goes on ({succession.code or 'PID 1 has it'})"
            )
            self._backoff.forgive()
            self._start_at_ns = time.monotonic_ns()
        elif unfit:
            self._end_machine(f"the agent cannot go on, and there is no other code: {unfit}")
        else:
            self._plan_restart(f"ended: {how}")

    def _end_machine(self, reason: str) -> None:
        """Nothing is left to be tried."""
        self.reason = self.reason or reason
        self._start_at_ns = None
        self._journal.error(self.reason)

    def _plan_restart(self, how: str) -> None:
        delay_ns = self._backoff.next_delay_ns()
        if delay_ns is None:
            self._end_machine(f"the agent was started {ATTEMPTS} times and never ready; at last it {how}")
            return
        self._journal.error(f"agent {how}; it is started again in {delay_ns // 1_000_000} ms")
        self._start_at_ns = time.monotonic_ns() + delay_ns

    def _take_packets(self) -> bool:
        """Handle a batch of packets; whether there were any."""
        channel = self._channel
        if channel is None:
            return False
        packets = channel.receive()
        for packet in packets:
            self._handle(packet)
        if channel.closed:
            self._agent_hung_up(channel)
        return bool(packets)

    def _agent_hung_up(self, channel: control.InitChannel) -> None:
        """Its channel ends: it is ending, or it could neither hear nor say anything and has to start anew."""
        channel.close()
        self._channel = None
        if not self.asked_by_agent:
            self._kill_agent()  # changes nothing for one that is ending already

    def _handle(self, packet: control.ToInit) -> None:
        match packet:
            case control.Store(name, fds):
                self._keep(name, fds)
            case control.Discard(name):
                self.store.discard(name)
            case control.Forget(pid, start_time):
                self.ledger.forget(pid, start_time)
            case control.Ready():
                self._backoff.forgive()
                self._heartbeat.start(time.monotonic_ns())
                stamp = self._journal.mark("agent ready")
                self._doorbell.ring(f"agent ready {stamp}")
                if self._succession.ready():
                    self._journal.info(f"agent is upgraded, it runs from {self._succession.code}")
            case control.Alive():
                late_ns = self._heartbeat.answer(time.monotonic_ns())
                if late_ns is not None:
                    self._journal.warning(f"agent answers again after {late_ns / 1e9:.1f} s")
            case control.Upgrade(code, drain_ms, ready_ms):
                self._succession.plan(code, drain_ms * 10**6, ready_ms * 10**6, time.monotonic_ns())
                self._journal.info(f"agent is to be upgraded to {code}")
            case control.Unfit(reason):
                self._unfit, self._killed_for = reason, f"it cannot go on: {reason}"
                self._kill_agent()
            case control.Shutdown():
                self.asked_by_agent = True
                self.reason = self.reason or "the agent asked for it"
            case control.Malformed(reason):
                self._journal.error(f"control channel: {reason}")

    def _beat(self) -> None:
        """Ask the agent whether its loop turns, and tell when it has not answered for too long."""
        now = time.monotonic_ns()
        if self.agent_pid and (overdue := self._succession.overdue(now)):
            self._journal.error(f"agent is killed: {overdue}")
            self._killed_for = f"killed by PID 1: {overdue}"
            self._kill_agent()
        channel = self._channel
        if channel is not None and self._heartbeat.is_due(now):
            channel.ping(now, self._heartbeat.limit_ns)  # one that cannot be sent goes unanswered, too
        if self._heartbeat.is_silent(now) and self.agent_pid:
            reason = f"silent for {self._heartbeat.limit_ns / 1e9:g} s, {self._describe_silence()}"
            self._journal.error(f"agent is {reason}")
            if self._plan.restart_silent:
                self._killed_for = f"killed by PID 1: {reason}"
                self._kill_agent()

    def _kill_agent(self) -> None:
        """Its end is noticed as any other. It is not reaped before, so the number is its own."""
        if self.agent_pid:
            os.kill(self.agent_pid, signalfd.SIGKILL)

    def _describe_silence(self) -> str:
        try:
            return _SILENCES.get(procfs.read_stat(self.agent_pid).state, _HUNG)
        except (OSError, ValueError):
            return "about to end"

    def _keep(self, name: str, fds: tuple[int, ...]) -> None:
        try:
            self.store.put(name, fds)
        except StoreFullError as error:
            self._journal.error(str(error))
            if self._channel is not None:
                self._channel.refuse(name, str(error))

    def _pump(self) -> None:
        if self.ledger.dropped > self._told_dropped:
            self._told_dropped = self.ledger.dropped
            self._journal.warning(  # before the agent is told, who may look for it here
                f"exit ledger is full: {self._told_dropped} of the oldest exits are dropped so far"
            )
        if self._channel is not None:
            self._channel.pump()
