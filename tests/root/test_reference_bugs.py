"""Mistakes of Kata's agent that are not made here: one test for each, by its number in the list (7.2)."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from kata_agent.containers import cgroup
from kata_protocols.gen import oci_pb2
from kata_protocols.status import Code
from kata_testing.native import NEEDS, NativeAgent, busybox_root, fresh_id, native_agent, oci_spec, refusal
from kata_testing.rows import check_rows
from kata_testing.wire import run_async

pytestmark = pytest.mark.requires(*NEEDS)

ELSEWHERE = {
    1: "tests/unit/test_cgroups_plan.py::test_a_pids_limit_counts_and_zero_or_less_is_none",
    3: "tests/root/test_containers_hooks.py::test_guest_hooks_come_after_the_containers_own",
    5: "tests/unit/test_cgroups_stats.py::test_cpu_is_in_nanoseconds_and_throttled_time_is_not_lost",
    17: "tests/unit/test_agent_copyfile.py::test_path_that_does_not_lie_plainly_below_the_root_is_refused",
    19: "tests/root/test_agent_policy.py::test_a_broken_policy_is_refused_with_its_place_and_the_old_one_stays",
    20: "tests/unit/test_devices_rewrite.py::"
    "test_addresses_of_all_devices_are_translated_in_their_lists_and_their_infos",
    21: "tests/root/test_agent_iptables.py::test_rules_that_are_set_are_the_kernel_s_and_are_read_back",
    22: "tests/unit/test_agent_config.py::test_environment_wins_and_takes_any_address",
    25: "tests/root/test_agent_sandbox.py::test_bind_with_ro_is_really_read_only",
}
LATER: dict[int, str] = {}


def test_every_bug_has_a_test_or_a_reason():
    check_rows(globals(), "test_bug", 26, ELSEWHERE, LATER)


async def run_spec(agent: NativeAgent, spec: oci_pb2.Spec, **request) -> str:
    container = fresh_id("bug")
    await agent.call("CreateContainer", container_id=container, OCI=spec, **request)
    agent.made.append(container)
    await agent.call("StartContainer", container_id=container)
    return container


async def lines_of(agent: NativeAgent, spec: oci_pb2.Spec) -> list[str]:
    container = await run_spec(agent, spec)
    return (await agent.read_all(container))[0].decode().splitlines()


def cgroup_of(agent: NativeAgent, container: str) -> Path:
    return Path(f"/proc/{agent.agent_pid()}/root/sys/fs/cgroup/{container}")


def set_score(agent: NativeAgent, score: int) -> None:
    Path(f"/proc/{agent.agent_pid()}/oom_score_adj").write_text(str(score))


def mounts_of(agent: NativeAgent) -> str:
    return Path(f"/proc/{agent.agent_pid()}/mounts").read_text()


def is_gone(folder: Path) -> bool:
    return not folder.exists()


def test_bug_02_poststop_hooks_run_after_the_end_and_poststart_hooks_do_not_take_their_place(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            spec = oci_spec("true")
            for kind in ("Poststart", "Poststop"):
                words = ["sh", "-c", f"echo {kind} >> {tmp_path}/log"]
                getattr(spec.Hooks, kind).add(Path="/bin/sh", Args=words)
            container = await run_spec(agent, spec)
            await agent.remove(container)
            assert (tmp_path / "log").read_text() == "Poststart\nPoststop\n"

    run_async(body())


@pytest.mark.parametrize("score", [0, 300])
def test_bug_04_an_oom_score_of_zero_is_zero_and_not_the_agents(tmp_path, score):
    async def body():
        async with native_agent(tmp_path) as agent:
            set_score(agent, 555)
            spec = oci_spec("cat", "/proc/self/oom_score_adj", OOMScoreAdj=score)
            assert await lines_of(agent, spec) == [str(score)]
            holder = await agent.run("sleep", "1000", OOMScoreAdj=score)
            await agent.exec(holder, "e", "cat", "/proc/self/oom_score_adj")
            assert (await agent.read_all(holder, "e"))[0] == f"{score}\n".encode()

    run_async(body())


def test_bug_06_a_device_that_no_rule_allows_cannot_be_opened(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            script = (
                "mknod /tmp/k c 1 11 && head -c 1 /tmp/k; echo $?; head -c 1 /dev/zero | wc -c; rm -f /tmp/k"
            )
            allowed = {
                name: ["CAP_MKNOD", "CAP_SYS_ADMIN", "CAP_SYSLOG"]
                for name in ("Bounding", "Effective", "Permitted")
            }
            spec = oci_spec("sh", "-c", script, Capabilities=oci_pb2.LinuxCapabilities(**allowed))
            container = await run_spec(agent, spec)
            out, _ = await agent.read_all(container)
            errors = (await agent.read_all(container, stream="Stderr"))[0].decode()
            assert out == b"1\n1\n", errors
            assert "Operation not permitted" in errors

    run_async(body())


def test_bug_07_directories_are_masked_a_missing_cwd_is_made_and_bind_targets_keep_their_content(tmp_path):
    target = busybox_root() / "etc/bound-target"
    target.write_text("content of the target\n")
    (tmp_path / "source").write_text("content of the source\n")

    async def body():
        async with native_agent(tmp_path) as agent:
            spec = oci_spec("sh", "-c", "pwd; ls /root; cat /etc/bound-target; ls -l /dev/fd | wc -l")
            spec.Process.Cwd = "/tmp/bug-seven"
            spec.Linux.MaskedPaths.append("/root")
            spec.Mounts.add(
                destination="/etc/bound-target", source=f"{tmp_path}/source", type="bind", options=["rbind"]
            )
            assert await lines_of(agent, spec) == ["/tmp/bug-seven", "content of the source", "1"]
            assert target.read_text() == "content of the target\n"

    try:
        run_async(body())
    finally:
        target.unlink()


def test_bug_08_a_process_without_a_terminal_has_a_session_of_its_own(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            script = "echo $(cut -d' ' -f6,7 /proc/$$/stat) $$; sleep 1000"  # in one write
            container = await agent.run("sh", "-c", script)
            assert await agent.read(container) == b"1 0 1\n"  # session 1 is its own, there is no terminal
            await agent.exec(
                container,
                "e",
                "sh",
                "-c",
                "read -r a b c d e session tty rest < /proc/$$/stat; echo $((session - $$)) $tty",
            )
            assert (await agent.read_all(container, "e"))[0] == b"0 0\n"

    run_async(body())


def test_bug_09_a_program_that_cannot_be_run_late_does_not_end_with_success(tmp_path):
    broken = busybox_root() / "no-interpreter"
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)

    async def body():
        async with native_agent(tmp_path) as agent:
            assert await agent.wait(await agent.run("/no-interpreter")) != 0

    run_async(body())


def test_bug_10_a_second_create_touches_nothing_of_the_first(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            container = await agent.run("cat")
            before = agent.open_fds()
            refused = await refusal(agent.create(container, "true"))
            assert refused.code == Code.INTERNAL
            assert refused.message == f"container {container} already exists"
            assert agent.open_fds() == before
            await agent.call("WriteStdin", container_id=container, data=b"alive")
            assert await agent.read(container) == b"alive"

    run_async(body())


@pytest.mark.parametrize(
    "change",
    [
        lambda spec: spec.Process.Capabilities.Bounding.append("CAP_NO_SUCH"),
        lambda spec: spec.Process.Rlimits.add(Type="RLIMIT_NO_SUCH"),
        lambda spec: spec.Linux.Devices.add(Path="/dev/x", Type="no-such"),
        lambda spec: setattr(spec.Linux.Seccomp, "DefaultAction", "NO_SUCH"),
        lambda spec: spec.Process.Args.append("nul \0 byte"),
        lambda spec: spec.Linux.Resources.HugepageLimits.add(Pagesize="77TB", Limit=1),
    ],
)
def test_bug_11_a_word_that_nobody_knows_is_answered_with_an_error(tmp_path, change):
    async def body():
        async with native_agent(tmp_path) as agent:
            spec = oci_spec("true")
            change(spec)
            refused = await refusal(agent.call("CreateContainer", container_id=fresh_id(), OCI=spec))
            assert refused.code == Code.INTERNAL
            assert refused.message
            assert await agent.wait(await agent.run("true")) == 0

    run_async(body())


def test_bug_12_an_exec_into_a_paused_container_is_refused_and_wedges_nothing(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            container = await agent.run("sleep", "1000")
            await agent.call("PauseContainer", container_id=container)
            assert "it is paused" in (await refusal(agent.exec(container, "e", "true"))).message
            await agent.call("ResumeContainer", container_id=container)
            await agent.exec(container, "e", "true")
            assert await agent.wait(container, "e") == 0

    run_async(body())


def test_bug_13_starting_twice_or_after_the_death_of_init_is_an_error_and_no_hang(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            container = fresh_id()
            await agent.create(container, "true")
            await agent.call("SignalProcess", container_id=container, signal=signal.SIGKILL)
            await agent.wait(container)
            async with asyncio.timeout(15):
                gone = await refusal(agent.call("StartContainer", container_id=container))
                assert "its init process is gone" in gone.message
                running = await agent.run("sleep", "1000")
                twice = await refusal(agent.call("StartContainer", container_id=running))
                assert "it is running, not created" in twice.message

    run_async(body())


def test_bug_14_statuses_of_hooks_are_told_right_while_many_others_end(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            busy = await agent.run("sh", "-c", "while :; do /bin/true; done")
            async with asyncio.TaskGroup() as group:
                for number in range(1, 9):
                    spec = oci_spec("true")
                    hook = spec.Hooks.Poststart.add(Path="/bin/sh", Args=["sh", "-c", f"exit {number}"])
                    assert hook.Path
                    group.create_task(run_spec(agent, spec))
            log = agent.log.read_text()
            assert [n for n in range(1, 9) if f"poststart /bin/sh: ended with status {n}" not in log] == []
            await agent.remove(busy)

    run_async(body())


def test_bug_15_a_failed_create_releases_its_storages(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            (tmp_path / "volume").mkdir()
            point = f"/run/kata-containers/sandbox/storage/{fresh_id()}"
            storage = {"driver": "bind", "source": f"{tmp_path}/volume", "mount_point": point}
            storage |= {"fstype": "bind", "options": ["bind"]}
            spec = oci_spec("no-such-program")
            request = {"container_id": fresh_id(), "OCI": spec, "storages": [storage]}
            assert "was not found" in (await refusal(agent.call("CreateContainer", **request))).message
            assert point not in mounts_of(agent)

    run_async(body())


def test_bug_16_streams_that_nobody_reads_keep_no_descriptor_after_the_removal(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            await agent.remove(await agent.run("true"))
            before = agent.open_fds()
            container = await agent.run("sleep", "1000")
            for number in range(10):
                await agent.exec(container, f"e{number}", "echo", "never read")
                assert await agent.wait(container, f"e{number}") == 0
            await agent.remove(container)
            assert agent.open_fds() == before

    run_async(body())


@pytest.mark.requires("policy-engine")
def test_bug_18_a_policy_that_pardoned_refusals_pardons_none_of_the_next_one(tmp_path):
    refuses = "package agent_policy\ndefault SetPolicyRequest := true\ndefault GuestDetailsRequest := false\n"

    async def body():
        async with native_agent(tmp_path) as agent:
            await agent.call("SetPolicy", policy=f"{refuses}default AllowRequestsFailingPolicy := true\n")
            await agent.call("GetGuestDetails")
            await agent.call("SetPolicy", policy=refuses)
            error = await refusal(agent.call("GetGuestDetails"))
            assert error.code is Code.PERMISSION_DENIED

    run_async(body())


def test_bug_23_a_signal_to_all_of_a_paused_container_leaves_it_paused(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            script = "trap 'echo got it' USR1; echo ready; while :; do sleep 0.01; done"
            container = await agent.run("sh", "-c", script)
            assert await agent.read(container) == b"ready\n"
            await agent.call("PauseContainer", container_id=container)
            await agent.call("SignalProcess", container_id=container, signal=signal.SIGUSR1)
            # the kernel wakes each process that it signals, and that one freezes again at once
            assert (cgroup_of(agent, container) / "cgroup.freeze").read_text() == "1\n"
            await cgroup.wait_event(str(cgroup_of(agent, container)), "frozen", 1)
            await agent.call("ResumeContainer", container_id=container)
            assert await agent.read(container) == b"got it\n"

    run_async(body())


def test_bug_24_values_of_the_environment_keep_every_byte(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            container = await agent.run("sh", "-c", 'printf "[%s]" "$A"', Env=["PATH=/bin", "A= \t x \n"])
            assert (await agent.read_all(container))[0] == b"[ \t x \n]"

    run_async(body())


def test_bug_26_a_removed_container_leaves_no_cgroup_whatever_it_made_in_it(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            container = await agent.run("sh", "-c", "sleep 1000 & sleep 1000 & echo ready; wait")
            assert await agent.read(container) == b"ready\n"
            folder = cgroup_of(agent, container)
            (folder / "below").mkdir()
            (folder / "below/deeper").mkdir()
            await agent.remove(container)
            assert is_gone(folder)

    run_async(body())
