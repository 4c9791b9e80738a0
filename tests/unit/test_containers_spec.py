"""The OCI dictionary that crun gets: defaults, namespaces, refusals, what cgroup v2 can take."""

from __future__ import annotations

import pytest

from kata_agent.containers import process_spec, resources, spec, state
from kata_agent.containers.cgroup import plan_path
from kata_agent.containers.crun import explain
from kata_agent.errors import AgentError, InvalidRequest, NotFound, NotSupported, WrongState

SHARED = spec.Shared(ipc_path="/run/ns/ipc", uts_path="/run/ns/uts")


def rewrite_as_given(shared=SHARED, **changes):
    return spec.rewrite({"root": {"path": "/r"}, **changes}, "/b/rootfs", "/cg", shared)


def rewrite(shared=SHARED, **changes):
    """With the mount namespace that every container needs."""
    if "linux" in changes:
        given = changes["linux"].get("namespaces", [])
        changes["linux"] = {**changes["linux"], "namespaces": [*given, {"type": "mount"}]}
    return rewrite_as_given(shared, **changes)


def kinds(*names):
    return {"namespaces": [{"type": name} for name in names]}


def test_what_is_left_out_gets_the_defaults():
    planned = rewrite()
    assert planned["process"]["args"] == ["sh"]
    assert planned["process"]["noNewPrivileges"] is True
    assert planned["process"]["rlimits"] == [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 1024}]
    assert "/proc/kcore" in planned["linux"]["maskedPaths"]
    assert [entry["type"] for entry in planned["linux"]["namespaces"]] == [
        "pid",
        "ipc",
        "uts",
        "mount",
        "cgroup",
    ]
    assert planned["root"] == {"path": "/b/rootfs", "readonly": False}
    assert planned["linux"]["cgroupsPath"] == "/cg"


def test_ipc_and_uts_are_the_sandboxes_whatever_the_host_says():
    linux = {"namespaces": [{"type": "ipc", "path": "/host/ipc"}, {"type": "uts"}, {"type": "mount"}]}
    planned = {entry["type"]: entry.get("path") for entry in rewrite(linux=linux)["linux"]["namespaces"]}
    assert planned == {"ipc": "/run/ns/ipc", "uts": "/run/ns/uts", "mount": None, "pid": None, "cgroup": None}
    alone = {e["type"]: e.get("path") for e in rewrite(spec.Shared(), linux=linux)["linux"]["namespaces"]}
    assert alone["ipc"] is alone["uts"] is None


def test_a_network_namespace_is_joined_by_its_path_and_never_made():
    joined = {"namespaces": [{"type": "network", "path": "/run/netns/x"}]}
    assert {"type": "network", "path": "/run/netns/x"} in rewrite(linux=joined)["linux"]["namespaces"]
    assert "network" not in {e["type"] for e in rewrite(linux=kinds("network"))["linux"]["namespaces"]}


def test_of_two_pid_entries_the_first_decides():
    linux = {"namespaces": [{"type": "pid", "path": "/a"}, {"type": "pid", "path": "/b"}]}
    planned = rewrite(SHARED._replace(pid_path="/c"), linux=linux)["linux"]["namespaces"]
    assert [e for e in planned if e["type"] == "pid"] == [{"type": "pid", "path": "/a"}]


def test_a_shared_pid_namespace_is_joined():
    planned = rewrite(SHARED._replace(pid_path="/proc/7/ns/pid"), linux=kinds("mount"))["linux"]["namespaces"]
    assert {"type": "pid", "path": "/proc/7/ns/pid"} in planned


@pytest.mark.parametrize(
    ("asked", "recorded", "others", "path"),
    [(False, "/p", True, None), (True, "/p", True, "/p"), (True, None, False, None)],
)
def test_the_flag_decides_about_the_pid_namespace(asked, recorded, others, path):
    assert spec.plan_pid_path(sandbox_pidns=asked, recorded=recorded, others=others) == path


def test_a_shared_pid_namespace_that_nobody_made_is_refused():
    with pytest.raises(WrongState, match="no shared pid namespace"):
        spec.plan_pid_path(sandbox_pidns=True, recorded=None, others=True)


def test_the_host_name_is_the_sandboxes():
    assert "hostname" not in rewrite(hostname="mine", linux=kinds("uts"))
    assert rewrite(spec.Shared(), hostname="mine", linux=kinds("uts"))["hostname"] == "mine"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"hostname": "h", "linux": kinds("mount")}, "no uts namespace"),
        ({"linux": {"maskedPaths": ["/x"], **kinds("uts")}}, "maskedPaths are given, but"),
        ({"linux": kinds("uts", "pid", "ipc")}, "the spec has no mount namespace"),
        ({"linux": {"maskedPaths": ["x"], **kinds("mount")}}, "maskedPaths 'x' must be absolute"),
        ({"linux": {"readonlyPaths": ["/a/../b"], **kinds("mount")}}, "without `..`"),
        ({"linux": kinds("user")}, "at least one uid and one gid mapping"),
        ({"linux": {"uidMappings": [{"size": 1}], **kinds("mount")}}, "no user namespace"),
        ({"linux": {"sysctl": {"kernel.hostname": "x"}}}, "sysctl kernel.hostname is not one"),
        (
            {"linux": {"sysctl": {"kernel.shmmax": "1"}, **kinds("mount")}},
            "sysctl kernel.shmmax needs an ipc",
        ),
        ({"linux": {"sysctl": {"fs.mqueue.x": "1"}, **kinds("mount")}}, "needs an ipc"),
        ({"mounts": [{"destination": "etc"}]}, "mount destination 'etc' must be absolute"),
        ({"mounts": [{"destination": "/proc/sys", "type": "bind"}]}, "nothing may be bound there"),
        ({"mounts": [{"destination": "/proc/keys", "options": ["rbind"]}]}, "nothing may be bound there"),
        ({"linux": {"devices": [{"path": "/devfoo", "type": "c"}]}}, "'/devfoo' is not below /dev"),
        ({"linux": {"devices": [{"path": "/dev", "type": "c"}]}}, "is not below /dev"),
        ({"linux": {"devices": [{"path": "/dev/../x", "type": "c"}]}}, "is not below /dev"),
        ({"linux": {"devices": [{"path": "/dev/x", "type": "z"}]}}, "type 'z' is none of"),
    ],
)
def test_a_contradiction_is_refused_by_name(changes, text):
    with pytest.raises(InvalidRequest) as caught:
        rewrite_as_given(**changes)
    assert text in str(caught.value)


def test_time_namespaces_are_not_supported():
    with pytest.raises(NotSupported, match="time"):
        rewrite(linux=kinds("time"))


@pytest.mark.parametrize("path", ["//dev/sda", "/dev/a..b", "/dev//foo"])
def test_odd_device_paths_below_dev_are_fine(path):
    rewrite(linux={"devices": [{"path": path, "type": "c"}]})


@pytest.mark.parametrize("name", ["cpuinfo", "net/dev", "loadavg"])
def test_some_files_of_proc_may_be_bound(name):
    rewrite(mounts=[{"destination": f"/proc/{name}", "type": "bind", "source": "/x"}])


def test_network_sysctls_are_the_guests():
    rewrite(linux={"sysctl": {"net.ipv4.ip_forward": "1"}})


def test_hooks_are_the_containers_then_the_guests_and_create_runtime_never_runs():
    own = {"prestart": [{"path": "/a"}], "poststop": [{"path": "/b"}], "createRuntime": [{"path": "/c"}]}
    shared = SHARED._replace(guest_hooks={"prestart": [{"path": "/g"}]})
    assert rewrite(shared, hooks=own)["hooks"] == {
        "prestart": [{"path": "/a"}, {"path": "/g"}],
        "poststop": [{"path": "/b"}],
    }


def test_annotations_cannot_command_crun():
    annotations = {"run.oci.handler": "krun", "io.kubernetes.cri.container-type": "sandbox"}
    assert list(rewrite(annotations=annotations)["annotations"]) == ["io.kubernetes.cri.container-type"]


def test_a_process_gets_its_umask_and_score_and_keeps_its_environment_byte_for_byte():
    process = process_spec.complete({"env": ["A= x ", "B=1", "B=2", "noname", "=x"], "args": ["a"]})
    assert process["env"] == ["A= x ", "B=2"]
    assert process["user"] == {"uid": 0, "gid": 0, "umask": 0o022}
    assert process["oomScoreAdj"] == 0
    assert process["cwd"] == "/"
    assert process_spec.complete({})["args"] == ["sh"]


@pytest.mark.parametrize("key", ["uid", "gid"])
def test_an_id_that_would_leave_the_process_as_root_is_refused(key):
    with pytest.raises(InvalidRequest, match=f"user: {key} 4294967295 is no id"):
        process_spec.complete({"user": {key: 2**32 - 1}})


def test_capabilities_come_in_any_spelling():
    process = process_spec.complete({"capabilities": {"bounding": ["NET_ADMIN", '"CAP_MKNOD"', "cap_kill"]}})
    assert process["capabilities"]["bounding"] == ["CAP_NET_ADMIN", "CAP_MKNOD", "CAP_KILL"]


@pytest.mark.parametrize(
    "process",
    [
        {"capabilities": {"bounding": ["no such!"]}},
        {"rlimits": [{"type": "RLIMIT_SILLY"}]},
        {"args": ["a\0b"]},
        {"env": ["A=\0"]},
        {"oomScoreAdj": 1001},
        {"oomScoreAdj": -(2**63)},
    ],
)
def test_a_process_that_cannot_be_is_refused(process):
    with pytest.raises(InvalidRequest):
        process_spec.complete(process)


def test_a_console_without_a_size_has_none():
    assert "consoleSize" not in process_spec.complete({"consoleSize": {"height": 0, "width": 80}})
    size = {"height": 24, "width": 80}
    assert process_spec.complete({"consoleSize": size})["consoleSize"] == size


def test_an_exec_is_completed_from_its_container_where_it_says_nothing():
    own = {
        "capabilities": {"bounding": ["CAP_KILL"]},
        "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}],
        "noNewPrivileges": True,
        "oomScoreAdj": 500,
        "env": ["SECRET=1"],
    }
    filled = process_spec.complete_exec({"args": ["a"], "noNewPrivileges": False, "oomScoreAdj": 0}, own)
    assert filled["capabilities"]["bounding"] == ["CAP_KILL"]
    assert (filled["noNewPrivileges"], filled["oomScoreAdj"]) == (True, 500)
    assert filled["rlimits"] == own["rlimits"]
    assert filled["env"] == []
    kept = process_spec.complete_exec({"capabilities": {"bounding": ["CAP_CHOWN"]}}, own)
    assert kept["capabilities"]["bounding"] == ["CAP_CHOWN"]


def test_limits_reach_crun_as_the_files_that_an_update_would_write():
    planned = resources.rewrite(
        {
            "memory": {"limit": 64 << 20, "swap": 96 << 20, "reservation": 1 << 20, "swappiness": 0},
            "cpu": {"shares": 0, "quota": -1, "period": 50000, "cpus": "", "mems": "0"},
            "pids": {"limit": 7},
            "blockIO": {
                "weight": 0,
                "throttleReadBpsDevice": [{"major": 8, "minor": n, "rate": 9} for n in (0, 16)],
            },
        }
    )
    assert planned["memory"] == {"limit": 64 << 20, "swap": 96 << 20}
    assert planned["unified"] == {
        "memory.max": "67108864",
        "memory.low": "1048576",
        "cpu.max": "max 50000",
        "cpuset.mems": "0",
        "pids.max": "7",
        "io.max": "8:0 rbps=9\n8:16 rbps=9",
    }


def test_what_a_new_group_has_already_is_not_asked_for_so_that_it_needs_no_controller():
    nothing = {"memory": {"limit": -1, "swap": -1}, "pids": {"limit": 0}, "cpu": {"quota": -1}}
    assert resources.rewrite(nothing) == {"devices": [{"allow": False, "access": "rwm"}]}


def test_devices_are_denied_first_and_numbers_below_one_are_wildcards():
    rules = [
        {"allow": True, "type": "c", "major": 10, "minor": 0, "access": "rw"},
        {"allow": True, "type": "c", "major": -1, "minor": -1, "access": "m"},
        {"allow": True, "type": "b", "major": 8},
    ]
    assert resources.rewrite({"devices": rules})["devices"] == [
        {"allow": False, "access": "rwm"},
        {"allow": True, "access": "rw", "type": "c", "major": 10, "minor": 0},
        {"allow": True, "access": "m", "type": "c"},
        {"allow": True, "access": "rwm", "type": "b", "major": 8},
    ]
    with pytest.raises(InvalidRequest, match="device rule type 'z'"):
        resources.rewrite({"devices": [{"type": "z"}]})


@pytest.mark.parametrize(
    ("given", "path"),
    [("", "/cid"), ("/a/b", "/a/b"), ("a/b/", "/a/b"), ("system.slice:kata:1", "/system.slice/kata/1")],
)
def test_both_notations_of_a_cgroup_path(given, path):
    assert plan_path(given, "cid") == path


@pytest.mark.parametrize("given", ["/", "/a/../b", "..", "/./x", "/a\0b"])
def test_a_path_that_names_no_cgroup_is_refused(given):
    with pytest.raises(InvalidRequest, match="does not name a cgroup"):
        plan_path(given, "cid")


def test_every_transition_that_is_not_in_the_table_is_refused():
    verbs = {verb for verb, _ in state.TRANSITIONS}
    states = (
        state.CREATING,
        state.CREATED,
        state.RUNNING,
        state.PAUSED,
        state.PAUSED_CREATED,
        state.STOPPED,
    )
    for verb in verbs:
        for before in states:
            if (verb, before) in state.TRANSITIONS:
                assert state.plan_transition("c1", verb, before) == state.TRANSITIONS[verb, before]
            else:
                with pytest.raises(WrongState, match=f"failed to {verb} container c1: it is {before}"):
                    state.plan_transition("c1", verb, before)
    assert ("exec", state.PAUSED) not in state.TRANSITIONS


def test_cruns_log_becomes_an_error_with_the_errnos_name():
    log = "executable file `nope` not found in $PATH: No such file or directory\n"
    missing = explain("exec", "nope", log, 1, None)
    assert isinstance(missing, NotFound)
    assert str(missing) == "crun exec: the file nope was not found: ENOENT: No such file or directory"
    other = explain("create", "a", "warning\nmount `/x`: Permission denied", 1, None)
    assert str(other) == "crun create: mount `/x`: EACCES: Permission denied"
    assert str(explain("create", "a", "odd", 1, None)) == "crun create: odd"
    silent = explain("create", "a", "", None, 9)
    assert isinstance(silent, AgentError)
    assert str(silent) == "crun create ended with signal 9 and said nothing"
