"""The words of `connect`, and the requests made from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kata_host.cli.notation import (
    Command,
    NotationError,
    parse_arguments,
    parse_bytes,
    parse_command,
    parse_duration,
    parse_signal,
)
from kata_host.cli.requests import API_COMMANDS, Session, build_requests, find_rpc
from kata_host.copyfile import plan_copy
from kata_protocols.gen import agent_pb2 as pb


def build(rpc: str, argument: str = "", session: Session | None = None) -> Any:
    (request,) = build_requests(session or Session(), rpc, argument)
    return request


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", None),
        ("0", None),
        ("5s", 5),
        ("500ms", 0.5),
        ("1m 30s", 90),
        ("1h30m", 5400),
        ("2us", 2e-6),
        ("99ns", 99e-9),
    ],
)
def test_durations_are_numbers_with_units(text: str, seconds: float | None) -> None:
    assert parse_duration(text) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize("text", ["5", "s", "5parsecs", "-1s", "1.5s"])
def test_a_duration_without_a_known_unit_is_refused(text: str) -> None:
    with pytest.raises(NotationError, match="want a number with a unit"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [("kill", 9), ("SIGKILL", 9), ("sigterm", 15), ("9", 9), ("255", 255), ("CLD", 17), ("SIGSTKFLT", 16)],
)
def test_signals_by_name_or_number(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize("text", ["SIGPOLL", "SIGRTMIN", "256", "-9", "nope", ""])
def test_unknown_signals_are_refused(text: str) -> None:
    with pytest.raises(NotationError, match="signal"):
        parse_signal(text)


def test_commands_are_split_at_white_space_and_built_ins_begin_in_lower_case() -> None:
    assert parse_command("  ReadStdout   len=5  cid=x ") == Command("ReadStdout", "len=5 cid=x")
    assert parse_command("sleep 1s").is_builtin
    assert not parse_command("Check").is_builtin


def test_option_values_may_be_quoted() -> None:
    assert parse_arguments('data="hello world" len=3').options == {"data": "hello world", "len": "3"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("json://{", "not JSON"),
        ("json://[1]", "want a JSON object, not list"),
        ("file:///no/such/file", "file:///no/such/file: No such file or directory"),
        ("word", "want key=value"),
        ("http://x", "want key=value"),
    ],
)
def test_arguments_that_cannot_be_read_are_named(text: str, message: str) -> None:
    with pytest.raises(NotationError, match=message):
        parse_arguments(text)


def test_bytes_are_text_or_hex() -> None:
    assert (parse_bytes("abc"), parse_bytes("hex:00ff")) == (b"abc", b"\x00\xff")
    with pytest.raises(NotationError, match="hex:zz"):
        parse_bytes("hex:zz")


def test_commands_have_the_originals_spelling_and_take_the_rpcs_too() -> None:
    assert "GetIptables" in API_COMMANDS
    assert "GetIPTables" not in API_COMMANDS
    assert find_rpc("GetIptables") == find_rpc("GetIPTables") == "GetIPTables"
    assert find_rpc("Nonsense") is None
    assert len(API_COMMANDS) == 43


def test_an_invented_container_id_is_remembered_for_the_next_command() -> None:
    session = Session()
    first = build("StartContainer", "", session)
    second = build("WaitProcess", "", session)
    assert len(first.container_id) == 64
    assert set(first.container_id) <= set("0123456789abcdef")
    assert second.container_id == second.exec_id == first.container_id


def test_a_given_id_is_remembered_and_json_wins_over_it() -> None:
    session = Session()
    assert build("StartContainer", "cid=given-by-me", session).container_id == "given-by-me"
    request = build("WaitProcess", 'json://{"container_id":"in-json"}', session)
    assert (request.container_id, request.exec_id) == ("in-json", "given-by-me")


def test_without_auto_values_nothing_is_invented_but_a_sandbox_id() -> None:
    session = Session(auto_values=False)
    assert build("WaitProcess", "", session) == pb.WaitProcessRequest()
    assert build("SignalProcess", "signal=term", session) == pb.SignalProcessRequest(signal=15)
    assert len(build("CreateSandbox", "", session).sandbox_id) == 64


def test_auto_values_fill_what_a_person_would_have_to() -> None:
    assert build("SignalProcess").signal == 9
    details = build("GetGuestDetails")
    assert details.mem_block_size
    assert details.mem_hotplug_probe


@pytest.mark.parametrize(
    ("rpc", "argument", "field", "value"),
    [
        ("ReadStdout", "len=4096", "len", 4096),
        ("WriteStdin", "data=hex:6869", "data", b"hi"),
        ("TtyWinResize", "row=3 column=7", "column", 7),
        ("SetGuestDateTime", "sec=5 usec=6", "Usec", 6),
        ("OnlineCPUMem", "nb_cpus=2 cpu_only=true", "cpu_only", True),
        ("MemHotplugByProbe", "memHotplugProbeAddr=100,ff", "memHotplugProbeAddr", [256, 255]),
    ],
)
def test_options_fill_their_fields(rpc: str, argument: str, field: str, value: object) -> None:
    assert getattr(build(rpc, argument), field) == value


def test_a_wrong_option_is_named() -> None:
    with pytest.raises(NotationError, match="len=many"):
        build("ReadStdout", "len=many")


def test_json_takes_the_protos_names_numbers_lists_and_ignores_the_rest() -> None:
    text = json.dumps(
        {
            "interface": {
                "IPAddresses": [{"family": "v6", "address": "::1"}],
                "type_": "veth",
                "mtu": 1 << 40,
                "nope": 1,
            }
        }
    )
    interface = build("UpdateInterface", f"json://{text}").interface
    assert (interface.IPAddresses[0].family, interface.type, interface.mtu) == (1, "veth", 1 << 40)


def test_optional_fields_that_are_absent_or_null_stay_unset() -> None:
    request = build("MemAgentMemcgSet", 'json://{"disabled":false,"swap":null}')
    assert request.HasField("disabled")
    assert not request.HasField("swap")


def test_a_bundle_makes_a_container(tmp_path: Path) -> None:
    spec = {
        "ociVersion": "1.1.0",
        "process": {"args": ["sh"], "user": {"uid": 7}, "capabilities": {"bounding": ["CAP_KILL"]}},
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "h",
        "hooks": {"prestart": [{"path": "/x"}]},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"namespaces": [{"type": "pid"}], "resources": {"pids": {"limit": 5}}},
    }
    (tmp_path / "config.json").write_text(json.dumps(spec))
    request = build("CreateContainer", "", Session(bundle_dir=str(tmp_path)))
    oci = request.OCI
    assert (oci.Version, oci.Root.Path, oci.Root.Readonly) == ("1.1.0", f"{tmp_path}/rootfs", True)
    assert (list(oci.Process.Args), oci.Process.User.UID) == (["sh"], 7)
    assert list(oci.Process.Capabilities.Bounding) == ["CAP_KILL"]
    assert (oci.Mounts[0].type, oci.Linux.Namespaces[0].Type, oci.Linux.Resources.Pids.Limit) == (
        "proc",
        "pid",
        5,
    )
    assert (oci.Hostname, oci.HasField("Hooks")) == ("", False)
    assert list(build("ExecProcess", f"spec=file://{tmp_path}/config.json").process.Args) == ["sh"]


@pytest.mark.parametrize(
    ("rpc", "argument", "message"),
    [
        ("CreateContainer", "", "give --bundle-dir DIR"),
        ("ExecProcess", "", "give --bundle-dir DIR"),
        ("CreateContainer", 'json://{"image":"busybox","id":"x"}', "pulling an image is not built"),
        ("SetPolicy", 'json://{"policy_file":"/no/file"}', "/no/file: No such file"),
        ("CopyFile", 'json://{"src":"/no/file","dest":"/x"}', "/no/file: No such file"),
    ],
)
def test_what_a_command_lacks_is_said(rpc: str, argument: str, message: str) -> None:
    with pytest.raises(NotationError, match=message):
        list(build_requests(Session(), rpc, argument))


def test_a_file_is_copied_in_pieces_of_one_mebibyte_with_growing_offsets(tmp_path: Path) -> None:
    source = tmp_path / "f"
    source.write_bytes(b"x" * (2 * (1 << 20) + 5))
    source.chmod(0o604)
    requests = list(plan_copy(str(source), "/run/kata-containers/f"))
    assert [(each.offset, len(each.data)) for each in requests] == [
        (0, 1 << 20),
        (1 << 20, 1 << 20),
        (2 << 20, 5),
    ]
    assert {(each.file_mode, each.dir_mode, each.file_size) for each in requests} == {
        (0o100604, 0x800001E8, source.stat().st_size)
    }


def test_links_folders_and_empty_files_are_one_request(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("../target")
    (tmp_path / "empty").touch()
    (link,) = plan_copy(str(tmp_path / "link"), "/l")
    (empty,) = plan_copy(str(tmp_path / "empty"), "/e")
    (folder,) = plan_copy(str(tmp_path), "/d")
    assert (link.data, link.file_size, link.file_mode >> 12) == (b"../target", 0, 0o12)
    assert (empty.data, folder.data, folder.file_mode >> 12) == (b"", b"", 0o4)
