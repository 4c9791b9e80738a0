"""Users by name: looked up in the container's own files, and never outside of its root."""

from __future__ import annotations

import os

import pytest

from kata_agent.containers.user import Names, resolve
from kata_agent.errors import InvalidRequest, NotFound

GIVEN = {"uid": 1, "gid": 2, "additionalGids": [3], "umask": 18}
USERS = "root:x:0:0:root:/root:/bin/sh\nweb:x:101:201::/:\nbroken\n5:x:77:78::/:\nodd:x:nan:1::/:\n"
GROUPS = "root:x:0:\nwww:x:201:\nlogs:x:301:other,web\ndisk:x:302:web\nbad:x:nan:web\n"


@pytest.fixture
def root(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(USERS)
    (tmp_path / "etc/group").write_text(GROUPS)
    return tmp_path


@pytest.mark.parametrize(
    ("names", "uid", "gid", "additional"),
    [
        (Names("web"), 101, 201, [3, 301, 302]),
        (Names("web", "logs"), 101, 301, [3]),
        (Names("101"), 101, 201, [3, 301, 302]),
        (Names("5"), 77, 78, [3]),  # a name of digits is a name first
        (Names("4000"), 4000, 0, [3]),
        (Names("", "www"), 1, 201, [3]),
        (Names("", "9"), 1, 9, [3]),
        (Names("", "", ("logs", "17", "logs")), 1, 2, [3, 301, 17]),
        (Names("web", "", ("17",)), 101, 201, [3, 301, 302, 17]),
    ],
)
def test_names_and_numbers_become_numbers(root, names, uid, gid, additional):
    found = resolve(names, GIVEN, str(root))
    assert found == {"uid": uid, "gid": gid, "additionalGids": additional, "umask": 18}
    assert GIVEN["uid"] == 1, "what was given is not changed"


@pytest.mark.parametrize(
    ("names", "error", "text"),
    [
        (Names("nobody"), NotFound, "user 'nobody' is not in the container's /etc/passwd"),
        (Names("odd"), NotFound, "user 'odd' is not in"),
        (Names("web", "no"), NotFound, "group 'no' is not in the container's /etc/group"),
        (Names("web", "", ("no",)), NotFound, "group 'no' is not in"),
        (Names("4294967295"), InvalidRequest, "user 4294967295 is beyond"),
        (Names("-1"), NotFound, "user '-1' is not in"),
    ],
)
def test_what_is_not_there_is_refused_by_name(root, names, error, text):
    with pytest.raises(error) as caught:
        resolve(names, GIVEN, str(root))
    assert text in str(caught.value)


def test_a_link_leads_to_a_place_in_the_root_and_never_out_of_it(root, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "passwd"
    outside.write_text("intruder:x:666:666::/:\n")
    for target in (str(outside), "../" * 20 + str(outside).lstrip("/")):
        (root / "etc/passwd").unlink()
        (root / "etc/passwd").symlink_to(target)
        with pytest.raises(NotFound, match="intruder"):
            resolve(Names("intruder"), GIVEN, str(root))
    (root / "usr").mkdir()
    (root / "usr/passwd").write_text("inside:x:55:56::/:\n")
    (root / "etc/passwd").unlink()
    (root / "etc/passwd").symlink_to("/usr/passwd")
    assert resolve(Names("inside"), GIVEN, str(root))["uid"] == 55


def test_a_root_without_the_files_has_numbers_only(tmp_path):
    assert resolve(Names("12", "13"), GIVEN, str(tmp_path))["gid"] == 13
    with pytest.raises(NotFound):
        resolve(Names("web"), GIVEN, str(tmp_path))


def test_a_pipe_or_an_endless_file_keeps_nobody_waiting(root):
    (root / "etc/passwd").unlink()
    os.mkfifo(root / "etc/passwd")
    with pytest.raises(InvalidRequest, match="/etc/passwd is not a file"):
        resolve(Names("web"), GIVEN, str(root))
    (root / "etc/passwd").unlink()
    with open(root / "etc/passwd", "wb") as file:
        file.truncate((1 << 20) + 1)
    with pytest.raises(InvalidRequest, match="more than 1048576 bytes"):
        resolve(Names("web"), GIVEN, str(root))
