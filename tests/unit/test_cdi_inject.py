"""What CDI edits do to a specification, and waiting until devices can be had."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from kata_agent.devices.cdi import edit
from kata_agent.devices.cdi.definition import Definition
from kata_agent.devices.cdi.edit import Node
from kata_agent.devices.cdi.folder import Folders, Origin, parse_file
from kata_agent.devices.cdi.inject import Cdi, find_wanted
from kata_agent.devices.cdi.name import Name
from kata_agent.errors import InvalidRequest, NotSupported, TimedOut
from kata_agent.worker import Worker
from kata_linux import inotify

KATA = """{"cdiVersion": "0.6.0", "kind": "kata.com/gpu",
 "devices": [{"name": "0", "containerEdits": {"env": ["FOO=VALID_SPEC", "BAR=BARVALUE1"],
   "deviceNodes": [{"path": "/dev/null", "permissions": "rw"}, {"path": "/dev/zero", "permissions": "rw"}]}}]}"""
DEADLINE_S = 60


def apply(edits: dict[str, Any], spec: dict[str, Any] | None = None, **nodes: Node) -> dict[str, Any]:
    return edit.apply(
        spec or {"process": {}, "linux": {}}, [edits], {f"/dev/{key}": node for key, node in nodes.items()}
    )


def test_variable_replaces_the_one_of_its_name() -> None:
    spec = {"process": {"env": ["PATH=/bin", "A=old", "AB=kept"]}, "linux": {}}
    edited = apply({"env": ["A=1", "B=2", "A=3"]}, spec)
    assert edited["process"]["env"] == ["PATH=/bin", "AB=kept", "B=2", "A=3"]
    assert spec["process"]["env"] == ["PATH=/bin", "A=old", "AB=kept"]


def test_node_is_what_the_guest_has_there_and_may_be_used() -> None:
    edited = apply({"deviceNodes": [{"path": "/dev/gpu"}]}, gpu=Node("c", 195, 0, 0o660))
    assert edited["linux"]["devices"] == [
        {"path": "/dev/gpu", "type": "c", "major": 195, "minor": 0, "fileMode": 0o660}
    ]
    rule = {"allow": True, "type": "c", "major": 195, "minor": 0, "access": "rwm"}
    assert edited["linux"]["resources"]["devices"] == [rule]


def test_node_that_the_file_describes_need_not_be_there() -> None:
    node = {"path": "/dev/x", "hostPath": "/dev/y", "type": "b", "major": 8, "minor": 1, "permissions": "r"}
    edited = apply({"deviceNodes": [node]})
    assert edited["linux"]["devices"] == [{"path": "/dev/x", "type": "b", "major": 8, "minor": 1}]
    assert edited["linux"]["resources"]["devices"][0]["access"] == "r"
    pipe = apply({"deviceNodes": [{"path": "/dev/p", "type": "p"}]})
    assert pipe["linux"]["devices"] == [{"path": "/dev/p", "type": "p"}]
    assert pipe["linux"]["resources"]["devices"] == []


def test_node_replaces_the_one_at_its_path_and_belongs_to_the_container_s_user() -> None:
    spec = {
        "process": {"user": {"uid": 1000, "gid": 0}},
        "linux": {"devices": [{"path": "/dev/gpu", "type": "c", "major": 1, "minor": 1}, {"path": "/dev/a"}]},
    }
    nodes = [{"path": "/dev/gpu", "gid": 44, "permissions": "none"}]
    edited = apply({"deviceNodes": nodes}, spec, gpu=Node("c", 195, 0, 0o666))
    assert edited["linux"]["devices"] == [
        {"path": "/dev/a"},
        {
            "path": "/dev/gpu",
            "type": "c",
            "major": 195,
            "minor": 0,
            "fileMode": 0o666,
            "uid": 1000,
            "gid": 44,
        },
    ]
    assert edited["linux"]["resources"]["devices"] == []


def test_node_of_another_type_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="/dev/gpu: is of type 'b', not 'c'"):
        apply({"deviceNodes": [{"path": "/dev/gpu", "type": "c"}]}, gpu=Node("b", 8, 0, 0o660))
    unbuffered = apply({"deviceNodes": [{"path": "/dev/gpu", "type": "u"}]}, gpu=Node("c", 8, 0, 0o660))
    assert unbuffered["linux"]["devices"][0]["type"] == "u"


def test_mount_replaces_the_one_of_its_place_and_outer_ones_come_first() -> None:
    spec = {"mounts": [{"destination": "/usr/lib/a/b"}, {"destination": "/proc"}], "linux": {}, "process": {}}
    mounts = [
        {"hostPath": "/g/lib", "containerPath": "/usr/lib/a/b", "options": ["ro", "bind"]},
        {"hostPath": "/g", "containerPath": "/usr/lib", "type": "none"},
    ]
    assert apply({"mounts": mounts}, spec)["mounts"] == [
        {"destination": "/proc"},
        {"destination": "/usr/lib", "source": "/g", "options": [], "type": "none"},
        {"destination": "/usr/lib/a/b", "source": "/g/lib", "options": ["ro", "bind"]},
    ]


def test_bind_into_a_user_namespace_is_mapped() -> None:
    spec = {"linux": {"namespaces": [{"type": "user"}]}, "process": {}}
    mounts = [
        {"hostPath": "/g", "containerPath": f"/{number}", "options": options}
        for number, options in enumerate((["rbind"], ["bind", "ridmap"], ["ro"]))
    ]
    edited = apply({"mounts": mounts}, spec)
    assert [mount["options"] for mount in edited["mounts"]] == [
        ["rbind", "idmap"],
        ["bind", "ridmap"],
        ["ro"],
    ]


def test_hooks_groups_and_cache_classes_are_added() -> None:
    spec = {
        "hooks": {"prestart": [{"path": "/own"}]},
        "process": {"user": {"additionalGids": [5]}},
        "linux": {},
    }
    hooks = [
        {"hookName": name, "path": f"/{name}"} for name in ("createRuntime", "createContainer", "poststop")
    ]
    edited = apply({"hooks": hooks, "additionalGids": [0, 5, 44, 44], "intelRdt": {"closID": "x"}}, spec)
    assert edited["hooks"] == {
        "prestart": [{"path": "/own"}, {"path": "/createRuntime"}],
        "createContainer": [{"path": "/createContainer"}],
        "poststop": [{"path": "/poststop"}],
    }
    assert edited["process"]["user"]["additionalGids"] == [5, 44]
    assert edited["linux"]["intelRdt"] == {"closID": "x"}
    assert spec["hooks"] == {"prestart": [{"path": "/own"}]}


def test_interfaces_are_refused_by_name() -> None:
    with pytest.raises(NotSupported, match="CDI netDevices eth1: a container shares the guest's network"):
        apply({"netDevices": [{"hostInterfaceName": "eth1", "name": "net0"}]})


def test_parts_that_a_specification_lacks_are_made() -> None:
    edited = edit.apply({}, [{"env": ["A=1"], "deviceNodes": [{"path": "/dev/p", "type": "p"}]}], {})
    assert "A=1" in edited["process"]["env"]
    assert edited["linux"]["namespaces"]


def test_file_s_own_edits_come_once_before_its_first_device() -> None:
    one = Origin("/a", Definition("v/c", {"env": ["FILE=a"]}, {"0": {"env": ["D=0"]}, "1": {"env": ["D=1"]}}))
    other = Origin("/b", Definition("v/d", {}, {"0": {"env": ["D=2"]}}))
    edits = edit.collect([(Name("v/c", "1"), one), (Name("v/d", "0"), other), (Name("v/c", "0"), one)])
    assert [variable for entry in edits for variable in entry.get("env", ())] == [
        "FILE=a",
        "D=1",
        "D=2",
        "D=0",
    ]


def test_pod_s_own_container_gets_none() -> None:
    annotations = {"cdi.k8s.io/gpu": "v.com/gpu=0"}
    assert find_wanted({"annotations": annotations}) == (Name("v.com/gpu", "0"),)
    assert (
        find_wanted(
            {"annotations": {**annotations, "io.katacontainers.pkg.oci.container_type": "pod_sandbox"}}
        )
        == ()
    )
    assert find_wanted({}) == ()


# -- waiting ----------------------------------------------------------------------------------------------------------


def run(work: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await work

    asyncio.run(bounded())


class ToldWorker(Worker):
    """Tells when it has run `looks` functions."""

    def __init__(self, looks: int = 1) -> None:
        super().__init__(2)
        self.looked = asyncio.Event()
        self._left = looks

    async def run(self, function: Callable[[], Any]) -> Any:
        result = await super().run(function)
        self._left -= 1
        if not self._left:
            self.looked.set()
        return result


def make_cdi(tmp_path: Path, timeout_s: float = DEADLINE_S, worker: Worker | None = None) -> Cdi:
    return Cdi(worker or Worker(2), timeout_s, (str(tmp_path / "etc"), str(tmp_path / "run" / "cdi")))


async def inject(cdi: Cdi, *names: str) -> dict[str, Any]:
    annotations = {f"cdi.k8s.io/vfio{number}": name for number, name in enumerate(names)}
    spec: dict[str, Any] = {"annotations": annotations, "linux": {}, "process": {"env": ["FOO=own"]}}
    return await cdi.inject(spec, find_wanted(spec))


async def start(
    work: Coroutine[Any, Any, Any], worker: ToldWorker, group: asyncio.TaskGroup
) -> asyncio.Task[Any]:
    """A task that has looked as often as it does before it waits for a change."""
    task = group.create_task(work)
    await worker.looked.wait()
    return task


def test_annotation_that_can_be_resolved_needs_one_look(tmp_path: Path) -> None:
    async def work() -> None:
        (tmp_path / "etc").mkdir()
        (tmp_path / "etc" / "kata.json").write_text(KATA)
        edited = await inject(make_cdi(tmp_path, 0), "kata.com/gpu=0")
        assert edited["process"]["env"] == ["FOO=VALID_SPEC", "BAR=BARVALUE1"]
        assert [device["path"] for device in edited["linux"]["devices"]] == ["/dev/null", "/dev/zero"]
        assert len(edited["linux"]["resources"]["devices"]) == 2

    run(work())


@pytest.mark.parametrize("before", ["nothing", "parent", "folder", "half a file", "a bad file"])
def test_device_is_injected_when_its_file_comes(tmp_path: Path, before: str) -> None:
    folder = tmp_path / "run" / "cdi"

    async def work() -> None:
        if before != "nothing":
            (folder.parent if before == "parent" else folder).mkdir(parents=True)
        if before == "half a file":
            (folder / "kata.json").write_text(KATA[:50])
        if before == "a bad file":
            (folder / "kata.json").write_text(KATA.replace("0.6.0", "0.0.1"))
        worker = ToldWorker()
        async with asyncio.TaskGroup() as group:
            task = await start(inject(make_cdi(tmp_path, worker=worker), "kata.com/gpu=0"), worker, group)
            assert not task.done()
            folder.mkdir(parents=True, exist_ok=True)
            (folder / ".draft").write_text(KATA)
            (folder / ".draft").rename(folder / "kata.json")
            assert (await task)["process"]["env"] == ["FOO=VALID_SPEC", "BAR=BARVALUE1"]

    run(work())


def test_folder_that_comes_while_what_is_above_it_begins_to_be_watched_is_watched_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run" / "cdi"
    folder.parent.mkdir()
    add_watch = inotify.add_watch

    def add_late(fd: int, path: str, mask: int) -> int:
        try:
            return add_watch(fd, path, mask)
        finally:
            if path == str(folder):
                folder.mkdir(exist_ok=True)

    monkeypatch.setattr(inotify, "add_watch", add_late)

    async def work() -> None:
        worker = ToldWorker()
        async with asyncio.TaskGroup() as group:
            task = await start(inject(make_cdi(tmp_path, worker=worker), "kata.com/gpu=0"), worker, group)
            (folder / ".draft").write_text(KATA)
            (folder / ".draft").rename(folder / "kata.json")
            assert (await task)["process"]["env"] == ["FOO=VALID_SPEC", "BAR=BARVALUE1"]

    run(work())


def test_device_is_injected_when_its_node_comes(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    node = tmp_path / "dev" / "gpu0"
    (tmp_path / "etc" / "a.json").write_text(KATA.replace("/dev/null", str(node)))

    async def work() -> None:
        worker = ToldWorker(2)  # having found that a node is missing, it looks again
        async with asyncio.TaskGroup() as group:
            task = await start(inject(make_cdi(tmp_path, worker=worker), "kata.com/gpu=0"), worker, group)
            assert not task.done()
            node.parent.mkdir()
            os.mkfifo(node)
            assert (await task)["linux"]["devices"][0] == {
                "path": str(node),
                "type": "p",
                "fileMode": stat.S_IMODE(node.stat().st_mode),
            }

    run(work())


def test_device_that_was_in_time_is_injected_though_the_agent_was_late(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()

    class Late(Worker):
        async def run(self, function: Callable[[], Any]) -> Any:
            result = await super().run(function)
            if not (tmp_path / "etc" / "kata.json").exists():
                (tmp_path / "etc" / "kata.json").write_text(KATA)
                time.sleep(0.02)  # noqa: ASYNC251, TID251 - this is the agent that is late
            return result

    async def work() -> None:
        edited = await inject(make_cdi(tmp_path, 0.01, Late(2)), "kata.com/gpu=0")
        assert edited["process"]["env"] == ["FOO=VALID_SPEC", "BAR=BARVALUE1"]

    run(work())


def test_error_lists_what_stayed_unresolved_and_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "kata.json").write_text(KATA)
    (tmp_path / "etc" / "bad.yaml").write_text("cdiVersion: 0.5.0\nkind: x\n")

    async def work() -> None:
        with pytest.raises(TimedOut) as caught:
            await inject(make_cdi(tmp_path, 0.05), "kata.com/gpu=0", "nvidia.com/pgpu=0", "kata.com/gpu=7")
        assert str(caught.value) == (
            "failed to inject devices after CDI timeout of 0.05 seconds: unresolvable: nvidia.com/pgpu=0, "
            f"kata.com/gpu=7; defined are kata.com/gpu=0; {tmp_path}/run/cdi has no CDI file; "
            f"{tmp_path}/etc/bad.yaml:1: devices: is missing"
        )

    run(work())


def test_error_names_the_nodes_that_did_not_come(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "a.json").write_text(KATA.replace("/dev/null", "/dev/no-such-gpu"))

    async def work() -> None:
        with pytest.raises(TimedOut, match="device nodes that are not there: /dev/no-such-gpu"):
            await inject(make_cdi(tmp_path, 0.05), "kata.com/gpu=0")

    run(work())


def test_node_that_is_a_file_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    file = tmp_path / "etc" / "a.json"
    file.write_text(KATA.replace("/dev/null", str(file)))

    async def work() -> None:
        with pytest.raises(InvalidRequest, match=r"a\.json: is not a device node"):
            await inject(make_cdi(tmp_path), "kata.com/gpu=0")

    run(work())


def test_waiting_leaves_no_descriptor(tmp_path: Path) -> None:
    async def work() -> None:
        cdi = make_cdi(tmp_path, 0.01)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            with pytest.raises(TimedOut):
                await inject(cdi, "kata.com/gpu=0")
        worker = ToldWorker()
        async with asyncio.TaskGroup() as group:
            task = await start(inject(make_cdi(tmp_path, worker=worker), "kata.com/gpu=0"), worker, group)
            task.cancel()
        assert len(os.listdir("/proc/self/fd")) == before

    run(work())


def test_kata_s_own_example_is_good() -> None:
    parsed = parse_file("kata.json", KATA.encode())
    assert isinstance(parsed, Definition)
    assert json.loads(KATA)["devices"][0]["containerEdits"] == parsed.devices["0"]
    assert Folders(("/nowhere",)).scan().empty == ("/nowhere",)
