"""CDI files: names, the two notations, every field, versions, folders and which definition counts."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from kata_agent.devices.cdi import document, folder
from kata_agent.devices.cdi.definition import VERSIONS, Definition, Malformed, parse_definition
from kata_agent.devices.cdi.folder import FILE_LIMIT_BYTES, FILES_LIMIT, Folders, parse_file
from kata_agent.devices.cdi.name import Name, parse_name, read_annotations
from kata_agent.errors import InvalidRequest

NODE = {"path": "/dev/gpu0"}


def make(**more: Any) -> dict[str, Any]:
    """A small file; `edits` are those of its one device."""
    edits = more.pop("edits", {"deviceNodes": [NODE]})
    device = {"name": more.pop("name", "gpu0"), "containerEdits": edits, **more.pop("device", {})}
    return {"cdiVersion": "1.1.0", "kind": "vendor.com/gpu", "devices": [device], **more}


@pytest.mark.parametrize(
    "text",
    ["nvidia.com/gpu=0", "kata.com/gpu=all", "v/c=d", "a-b_c.d/E.f-g=0:1.x_y-z", "vendor.com/net=eth0.100"],
)
def test_name_is_vendor_class_and_device(text: str) -> None:
    assert str(parse_name(text)) == text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "there is no `=`"),
        ("nvidia.com/gpu", "there is no `=`"),
        ("gpu=0", "'gpu' is not vendor/class"),
        ("/gpu=0", "the vendor is empty"),
        ("nvidia.com/=0", "the class is empty"),
        ("nvidia.com/gpu=", "the device is empty"),
        ("0vidia/gpu=0", "vendor '0vidia' does not begin with a letter"),
        ("nvidia.com/gpu/x=0", "class 'gpu/x' has '/' in it"),
        ("nvidia.com/gpu-=0", "class 'gpu-' does not end with a letter or a digit"),
        ("nvidia.com/gpu=:0", "device ':0' does not begin with a letter or a digit"),
        ("nvidia.com/gpu=0=1", "device '0=1' has '=' in it"),
        ("nvidia.com/gpu= 0", "device ' 0' does not begin"),
        ("nvidia.com/gp\u00fc=0", "class 'gp\u00fc' does not end"),
    ],
)
def test_name_that_is_none_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        parse_name(text)


def test_annotations_give_each_device_once_in_the_order_of_their_keys() -> None:
    annotations = {
        "cdi.k8s.io/vfio18": "nvidia.com/gpu=1,intel.com/gpu=0",
        "cdi.k8s.io/vfio17": "nvidia.com/gpu=0,nvidia.com/gpu=1",
        "io.kubernetes.cri/gpu": "nvidia.com/gpu=9",
    }
    assert [str(name) for name in read_annotations(annotations)] == [
        "nvidia.com/gpu=0",
        "nvidia.com/gpu=1",
        "intel.com/gpu=0",
    ]


def test_one_bad_name_refuses_the_request_by_annotation_and_name() -> None:
    with pytest.raises(InvalidRequest, match=r"annotation cdi\.k8s\.io/x: invalid CDI device name ' b=1'"):
        read_annotations({"cdi.k8s.io/x": "a.com/a=0, b=1"})


# -- notations --------------------------------------------------------------------------------------------------------

YAML = """\
---
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
- name: "0"
  containerEdits:
    deviceNodes:
    - {path: /dev/nvidia0, fileMode: 0666, major: 195}
- name: 1:0
  containerEdits:
    env: [A=yes]
containerEdits:
  hooks:
  - hookName: createContainer
    path: /usr/bin/nvidia-cdi-hook
    args:
    - nvidia-cdi-hook
    - create-symlinks
  mounts:
"""


def test_yaml_and_json_say_the_same() -> None:
    parsed = document.parse(YAML.encode(), yaml=True)
    assert parsed["devices"][0]["containerEdits"]["deviceNodes"][0]["fileMode"] == 0o666
    assert parsed["devices"][1]["name"] == "1:0"  # neither a time nor a number to the base 60
    assert parsed["containerEdits"]["mounts"] is None
    again = json.dumps(parsed).encode()
    assert document.parse(again, yaml=False) == parsed == document.parse(again, yaml=True)


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("a: 1\nb: [1,\n", 3, "not YAML"),
        ("a: 1\na: 2\n", 2, "key 'a' is there twice"),
        ("a: &x [1]\nb: *x\n", 1, "an alias: write the value out"),
        ("a: !!python/object:os.system x\n", 1, "the tag"),
        ("? [a]\n: 1\n", 1, "a key that is not a text"),
        ("", 1, "the file is empty"),
        ("a: !!int b\n", 1, "'b' is no number"),
        ("a: b\n---\na: c\n", 2, "not YAML"),
        ("[" * 10000, 0, "not YAML"),
    ],
)
def test_yaml_that_json_could_not_say_is_refused_with_its_line(text: str, line: int, problem: str) -> None:
    with pytest.raises(document.Unreadable, match=problem) as caught:
        document.parse(text.encode(), yaml=True)
    assert caught.value.line == line


@pytest.mark.parametrize(
    ("data", "line", "problem"),
    [
        (b'{"a": 1,\n"b": }', 2, "not JSON: Expecting value"),
        (b'{"a": 1, "a": 2}', 0, "key 'a' is there twice"),
        (b"{}\n\xff", 2, "byte 0xff is not UTF-8"),
        (b"", 1, "not JSON"),
        (b"[" * 100000, 0, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", 0, "a number of thousands of digits"),
    ],
)
def test_json_that_is_none_is_refused_with_its_line(data: bytes, line: int, problem: str) -> None:
    with pytest.raises(document.Unreadable, match=problem) as caught:
        document.parse(data, yaml=False)
    assert caught.value.line == line


# -- fields -----------------------------------------------------------------------------------------------------------

EVERYTHING = {
    "env": ["A=1"],
    "deviceNodes": [
        {
            "path": "/dev/a",
            "hostPath": "/dev/b",
            "type": "c",
            "major": 1,
            "minor": 3,
            "fileMode": 438,
            "permissions": "rw",
            "uid": 1,
            "gid": 2,
        }
    ],
    "netDevices": [{"hostInterfaceName": "eth1", "name": "net0"}],
    "hooks": [{"hookName": "prestart", "path": "/h", "args": ["h"], "env": ["B=2"], "timeout": 3}],
    "mounts": [{"hostPath": "/a", "containerPath": "/b", "options": ["bind"], "type": "none"}],
    "intelRdt": {
        "closID": "x",
        "l3CacheSchema": "L3:0=f",
        "memBwSchema": "MB:0=50",
        "schemata": ["L3:0=f"],
        "enableMonitoring": True,
    },
    "additionalGids": [44],
}


def test_every_field_of_the_interface_is_read() -> None:
    notes = {"annotations": {"k": "v"}}
    parsed = parse_definition(make(edits=EVERYTHING, device=notes, containerEdits=EVERYTHING, **notes))
    assert parsed == Definition("vendor.com/gpu", EVERYTHING, {"gpu0": EVERYTHING})


def test_names_of_fields_are_compared_without_case_and_empty_ones_are_unset() -> None:
    document_ = make(edits={"additionalGIDs": [7], "env": None}, containeredits=None)
    assert parse_definition(document_).devices == {"gpu0": {"additionalGids": [7]}}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"kind": None}, "kind: is missing"),
        ({"kind": "gpu"}, "kind: 'gpu' is not vendor/class"),
        ({"cdiVersion": 1}, "cdiVersion: is a number, a text is needed"),
        ({"cdiVersion": "1.2.0"}, "cdiVersion: '1.2.0' is none of 0.1.0, "),
        ({"devices": []}, "devices: is empty"),
        ({"devices": {}}, "devices: is an object, a list is needed"),
        ({"devices": ["x"]}, r"devices\[0\]: is a text, an object is needed"),
        ({"name": ""}, r"devices\[0\].name: is missing"),
        ({"name": "a/b"}, r"devices\[0\].name: device 'a/b' has '/' in it"),
        ({"edits": {}}, r"devices\[0\].containerEdits: has no edits"),
        ({"edits": {"env": []}}, r"devices\[0\].containerEdits: has no edits"),
        ({"extra": 1}, "extra: is no field of CDI 1.1.0 here: cdiVersion, kind, "),
        ({"annotations": {"a": 1}}, "annotations.a: is a number, a text is needed"),
        ({"edits": {"env": ["A"]}}, r"containerEdits.env\[0\]: 'A' is not NAME=VALUE"),
        ({"edits": {"env": ["=A"]}}, r"env\[0\]: '=A' is not NAME=VALUE"),
        ({"edits": {"env": ["A=\0"]}}, r"env\[0\]: has a NUL in it"),
        ({"edits": {"deviceNodes": [{}]}}, r"deviceNodes\[0\].path: is missing"),
        ({"edits": {"deviceNodes": [{"path": "gpu"}]}}, r"deviceNodes\[0\].path: 'gpu' is not absolute"),
        ({"edits": {"deviceNodes": [{**NODE, "type": "x"}]}}, r"\[0\].type: 'x' is none of , b, c, u, p"),
        ({"edits": {"deviceNodes": [{**NODE, "major": -1}]}}, "major: is -1, which is not in 0..4294967295"),
        ({"edits": {"deviceNodes": [{**NODE, "major": 1.5}]}}, "major: is a fraction, a whole number"),
        ({"edits": {"deviceNodes": [{**NODE, "uid": True}]}}, "uid: is true or false, a whole number"),
        ({"edits": {"deviceNodes": [{**NODE, "permissions": "rwx"}]}}, "permissions: 'rwx' is neither"),
        ({"edits": {"deviceNodes": [{**NODE, "mode": 1}]}}, "mode: is no field of CDI 1.1.0 here: path, "),
        ({"edits": {"mounts": [{"hostPath": "/a"}]}}, r"mounts\[0\].containerPath: is missing"),
        ({"edits": {"hooks": [{"hookName": "x", "path": "/h"}]}}, "hookName: 'x' is none of prestart, "),
        ({"edits": {"hooks": [{"hookName": "prestart", "path": "h"}]}}, "path: 'h' is not absolute"),
        ({"edits": {"hooks": [{"hookName": "prestart", "path": "/h", "timeout": 0}]}}, "timeout: is 0"),
        ({"edits": {"hooks": [{"hookName": "prestart", "path": "/h", "env": ["x"]}]}}, r"env\[0\]: 'x'"),
        ({"edits": {"intelRdt": {"closID": "a/b"}}}, "closID: 'a/b' is no name of a class of service"),
        ({"edits": {"intelRdt": {"enableMonitoring": 1}}}, "enableMonitoring: is a number, true or false"),
        ({"edits": {"netDevices": [{"name": "x"}]}}, "hostInterfaceName: is missing"),
        ({"edits": {"additionalGids": [-1]}}, r"additionalGids\[0\]: is -1"),
    ],
)
def test_field_that_is_not_what_it_must_be_is_named_with_its_place(
    change: dict[str, Any], problem: str
) -> None:
    with pytest.raises(Malformed, match=problem):
        parse_definition(make(**change))


def test_device_that_is_there_twice_is_refused() -> None:
    twice = make()
    twice["devices"] *= 2
    with pytest.raises(Malformed, match=r"devices\[1\].name: device 'gpu0' is there twice"):
        parse_definition(twice)


@pytest.mark.parametrize(
    ("least", "use", "change"),
    [
        ("0.1.0", "", {}),
        (
            "0.4.0",
            "type of a mount",
            {"edits": {"mounts": [{"hostPath": "/a", "containerPath": "/b", "type": "none"}]}},
        ),
        ("0.5.0", "a name that begins with a digit", {"name": "0"}),
        ("0.5.0", "hostPath of a device node", {"edits": {"deviceNodes": [{**NODE, "hostPath": "/dev/b"}]}}),
        ("0.6.0", "annotations", {"annotations": {"a": "b"}}),
        ("0.6.0", "annotations", {"device": {"annotations": {"a": "b"}}}),
        ("0.6.0", "a dot in the class", {"kind": "vendor.com/gpu.x"}),
        ("0.7.0", "additionalGids", {"edits": {"additionalGids": [1]}}),
        ("0.7.0", "intelRdt", {"edits": {"intelRdt": {"closID": "x"}}}),
        ("1.1.0", "intelRdt.schemata", {"edits": {"intelRdt": {"schemata": ["L3:0=f"]}}}),
        ("1.1.0", "intelRdt.enableMonitoring", {"edits": {"intelRdt": {"enableMonitoring": True}}}),
        ("1.1.0", "netDevices", {"edits": {"netDevices": [{"hostInterfaceName": "a", "name": "b"}]}}),
    ],
)
def test_file_s_version_has_all_that_it_uses(least: str, use: str, change: dict[str, Any]) -> None:
    for number, version in enumerate(VERSIONS):
        if number >= VERSIONS.index(least):
            parse_definition(make(cdiVersion=f"v{version}", **change))
        else:
            with pytest.raises(Malformed, match=f"is {version}, but {use} needs {least} at least"):
                parse_definition(make(cdiVersion=version, **change))


# -- folders ----------------------------------------------------------------------------------------------------------


def write(path: Path, **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(make(**more)))
    return path


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders((str(tmp_path / "etc"), str(tmp_path / "run")))


def test_files_of_both_folders_and_notations_are_found_and_others_are_not(
    tmp_path: Path, folders: Folders
) -> None:
    write(tmp_path / "etc" / "a.json", name="json")
    (tmp_path / "etc" / "b.yaml").write_text(YAML)
    write(tmp_path / "etc" / "c.txt", name="text")
    write(tmp_path / "etc" / "d.JSON", name="upper")
    write(tmp_path / "etc" / "inner" / "e.json", name="inner")
    catalogue = folders.scan()
    assert sorted(map(str, catalogue.devices)) == [
        "nvidia.com/gpu=0",
        "nvidia.com/gpu=1:0",
        "vendor.com/gpu=json",
    ]
    assert catalogue.problems == ()
    assert catalogue.empty == (str(tmp_path / "run"),)


def test_later_folder_wins(tmp_path: Path, folders: Folders) -> None:
    write(tmp_path / "etc" / "a.json")
    write(tmp_path / "run" / "a.json", edits={"env": ["FROM=run"]})
    origin = folders.scan().devices[Name("vendor.com/gpu", "gpu0")]
    assert origin.path == str(tmp_path / "run" / "a.json")


def test_two_definitions_in_one_folder_cancel_each_other_and_are_told(
    tmp_path: Path, folders: Folders
) -> None:
    write(tmp_path / "etc" / "0.json", edits={"env": ["FROM=etc"]})
    for name in ("a.json", "b.json"):
        write(tmp_path / "run" / name)
    write(tmp_path / "run" / "c.json", name="other")
    catalogue = folders.scan()
    assert list(map(str, catalogue.devices)) == ["vendor.com/gpu=other"]
    (problem,) = catalogue.problems
    assert (
        problem
        == f"vendor.com/gpu=gpu0 is defined by {tmp_path}/run/a.json and by {tmp_path}/run/b.json: neither counts"
    )


def test_bad_file_costs_its_own_devices_only_and_is_named_with_line_and_field(
    tmp_path: Path, folders: Folders
) -> None:
    write(tmp_path / "run" / "good.json")
    (tmp_path / "run" / "half.json").write_text('{"cdiVersion": "0.5.0",\n "kind')
    (tmp_path / "run" / "field.yaml").write_text(YAML.replace("path: /dev/nvidia0", "path: nvidia0"))
    (tmp_path / "run" / "text.json").write_text(json.dumps(make(kind=7), indent=1))
    (tmp_path / "run" / "big.json").write_bytes(b" " * (FILE_LIMIT_BYTES + 1))
    (tmp_path / "run" / "folder.json").mkdir()
    (tmp_path / "run" / "link.json").symlink_to("nowhere")
    os.mkfifo(tmp_path / "run" / "pipe.json")
    catalogue = folders.scan()
    assert list(map(str, catalogue.devices)) == ["vendor.com/gpu=gpu0"]
    told = [problem.removeprefix(f"{tmp_path}/run/") for problem in catalogue.problems]
    assert told == [
        "big.json: has 1048577 bytes, more than 1048576",
        "field.yaml:8: devices[0].containerEdits.deviceNodes[0].path: 'nvidia0' is not absolute",
        "folder.json: is not a regular file",
        "half.json:2: not JSON: Unterminated string starting at",
        "pipe.json: is not a regular file",
        "text.json:3: kind: is a number, a text is needed (quote it)",
    ]


def test_only_what_has_changed_is_parsed_again(tmp_path: Path, folders: Folders) -> None:
    kept, changed = write(tmp_path / "run" / "a.json", name="a"), write(tmp_path / "run" / "b.json", name="b")
    before = folders.scan().devices
    write(changed, name="c")
    os.utime(changed, ns=(1, 1))
    after = folders.scan().devices
    assert list(map(str, after)) == ["vendor.com/gpu=a", "vendor.com/gpu=c"]
    name = Name("vendor.com/gpu", "a")
    assert after[name].definition is before[name].definition
    kept.unlink()
    assert list(map(str, folders.scan().devices)) == ["vendor.com/gpu=c"]


def test_number_of_files_is_bounded_and_the_rest_is_told(tmp_path: Path, folders: Folders) -> None:
    for number in range(FILES_LIMIT + 2):
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / f"{number:04}.json").touch()
    problems = folders.scan().problems
    assert len(problems) == FILES_LIMIT + 1
    assert f"has more than {FILES_LIMIT} files, those after 0255.json are left out" in problems[0]


def test_folder_that_is_none_is_told(tmp_path: Path, folders: Folders) -> None:
    (tmp_path / "etc").write_text("")
    assert folders.scan().problems == (f"{tmp_path}/etc: ENOTDIR: Not a directory",)


def test_fuzzed_file_is_either_good_or_named(tmp_path: Path) -> None:
    good = json.dumps(make(edits=EVERYTHING)).encode()
    for data, path in ((good, "x.json"), (YAML.encode(), "x.yaml")):
        assert isinstance(parse_file(path, data), Definition)
        for cut in range(0, len(data), 7):
            for broken in (data[:cut], data[:cut] + b"\0" + data[cut:], data[:cut] + b"]" + data[cut + 1 :]):
                result = parse_file(path, broken)
                assert isinstance(result, Definition) or result.startswith(path)


def test_usual_folders_are_those_of_the_interface() -> None:
    assert folder.FOLDERS == ("/etc/cdi", "/var/run/cdi")
