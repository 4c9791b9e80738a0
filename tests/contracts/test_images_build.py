"""The image that was really built: sizes within budget, bytes as the manifest says, nothing missing, nothing forbidden,
and the same bytes again when it is put together anew.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kata_images.cpio import Entry, Tree
from kata_images.elf import module_info, read_sections
from kata_images.kernel import BOOT_LIST
from kata_images.layers import check_libraries
from kata_images.manifest import describe_file
from kata_testing.repository import BUILD, GUEST, ROOT

pytestmark = pytest.mark.requires("guest-image")

INITRD_LIMIT_BYTES = 22_000_000
PYTHON_LIMIT_BYTES = 12_000_000

# Imported late by the agent or by what it imports; the image must have every one.
LATE = """
asyncio asyncio.subprocess argparse base64 binascii bisect concurrent.futures.thread configparser
contextvars csv ctypes.util datetime decimal email.message encodings.cp437 encodings.idna fcntl
fractions functools getpass graphlib grp gzip hashlib hmac http.client importlib.metadata
importlib.resources inspect ipaddress json locale logging logging.handlers mmap pickle platform pty
pwd queue random resource sched secrets select shutil socketserver statistics stringprep struct
subprocess tarfile tempfile termios tomllib traceback tty unicodedata urllib.parse uuid
xml.etree.ElementTree zipfile zlib zoneinfo google.protobuf.json_format google.protobuf.text_format
grpclib.client grpclib.reflection.service grpclib.server h2.connection multidict._multidict
"""

IMPORT_ALL = """
import importlib, pkgutil, sys
sys.path.append("/usr/lib/kata")
failed = []
names = sys.argv[1:]
for top in ("kata_linux", "kata_init", "kata_protocols", "kata_agent"):
    walked = pkgutil.walk_packages(importlib.import_module(top).__path__, top + ".")
    names += [module.name for module in walked if not module.name.endswith("__main__")]
for name in names:
    try:
        importlib.import_module(name)
    except Exception as error:
        failed.append(f"{name}: {error!r}")
from google.protobuf.internal import api_implementation
print(failed, api_implementation.Type(), "ssl" in sys.modules)
"""


def read_archive(data: bytes) -> Iterator[tuple[str, Entry]]:
    """Read newc archives that follow one another, as the kernel does."""
    at = 0
    while at < len(data):
        assert data[at : at + 6] == b"070701"
        numbers = [int(data[at + 6 + 8 * index : at + 14 + 8 * index], 16) for index in range(13)]
        name_end = at + 110 + numbers[11]
        name = data[at + 110 : name_end - 1].decode()
        begin = (name_end + 3) // 4 * 4
        end = begin + numbers[6]
        if name != "TRAILER!!!":
            assert numbers[2:4] == [0, 0], f"{name} belongs to root"
            yield name, Entry(numbers[1], data[begin:end], (numbers[9], numbers[10]))
        at = (end + 3) // 4 * 4


@pytest.fixture(scope="module")
def tree() -> Tree:
    plain = subprocess.run(
        ["zstd", "-dc", str(GUEST / "initrd.img")], stdout=subprocess.PIPE, check=True, timeout=60
    ).stdout
    return dict(read_archive(plain))


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((GUEST / "manifest.json").read_text())
    return document


def test_the_image_is_within_its_budgets(manifest: dict[str, Any]) -> None:
    assert manifest["outputs"]["initrd.img"]["size"] <= INITRD_LIMIT_BYTES
    assert manifest["interpreter_agent_libraries"] <= PYTHON_LIMIT_BYTES


def test_the_manifest_tells_the_bytes(manifest: dict[str, Any]) -> None:
    for name, row in manifest["outputs"].items():
        assert describe_file(GUEST / name) == row
    assert sum(layer["compressed"] for layer in manifest["layers"]) == (GUEST / "initrd.img").stat().st_size


def test_every_part_says_where_it_came_from(manifest: dict[str, Any]) -> None:
    names = {part["name"] for part in manifest["parts"]}
    assert {"crun", "busybox-static", "libc6", "protobuf", "grpclib", "kata_agent", "kata_init"} <= names
    for part in manifest["parts"]:
        assert part["version"]
        assert part["origin"]
        assert len(part["sha256"]) == 64
        assert part["size"] > 0
        assert part["installed"] > 0
    assert "://" not in json.dumps(manifest), "no mirror's name"


def test_no_openssl_and_no_cpp_runtime(tree: Tree) -> None:
    forbidden = ("libssl", "libcrypto", "_ssl.", "_hashlib.", "libstdc++")
    assert [path for path in tree if any(word in path for word in forbidden)] == []


def test_nothing_needs_a_library_that_is_not_there(tree: Tree) -> None:
    check_libraries(tree)


def test_python_is_byte_code_only(tree: Tree) -> None:
    assert [path for path in tree if path.endswith(".py") or "__pycache__" in path] == []


def test_every_link_leads_somewhere(tree: Tree) -> None:
    outside = {"etc/mtab"}
    broken = []
    for path, entry in tree.items():
        if stat.S_ISLNK(entry.mode) and path not in outside:
            target = entry.read().decode()
            whole = os.path.normpath(os.path.join(os.path.dirname(path), target)).lstrip("/")
            if whole not in tree:
                broken.append(f"{path} -> {target}")
    assert broken == []


def test_what_pid_1_needs_before_it_can_mount_is_there(tree: Tree) -> None:
    assert tree["dev/console"].device == (5, 1)
    assert tree["init"].read() == b"usr/bin/kata-init"
    for path in ("usr/bin/kata-init", "usr/bin/kata-agent", "usr/bin/crun", "usr/bin/busybox"):
        assert tree[path].mode == 0o100755
    assert tree["usr/bin/modprobe"].read() == b"busybox"
    assert tree["usr/bin/ip6tables-restore"].read() == b"xtables-legacy-multi"
    assert "usr/bin/xtables-legacy-multi" in tree
    assert tree["etc/machine-id"].read() == b""


def test_modules_for_boot_are_plain_and_after_what_they_need(tree: Tree, manifest: dict[str, Any]) -> None:
    listed = tree[BOOT_LIST].read().decode().split()
    before: set[str] = set()
    for path in listed:
        info = module_info(tree[path.lstrip("/")].read())
        assert info["vermagic"].split()[0] == manifest["kernel"]
        assert {name for name in info["depends"].split(",") if name} <= before, path
        before.add(info["name"])
    assert {"vsock", "vmw_vsock_virtio_transport"} <= before


def test_the_dependency_index_names_files_that_are_there(tree: Tree, manifest: dict[str, Any]) -> None:
    base = f"usr/lib/modules/{manifest['kernel']}"
    for line in tree[f"{base}/modules.dep"].read().decode().splitlines():
        path, _, needed = line.partition(":")
        for name in [path, *needed.split()]:
            assert f"{base}/{name}" in tree


def test_crun_for_this_machine_is_the_guests_and_static(tree: Tree) -> None:
    program = BUILD / "crun"
    assert program.read_bytes() == tree["usr/bin/crun"].read()
    assert subprocess.run([str(program), "--version"], capture_output=True, timeout=20, check=True).stdout
    assert ".interp" not in read_sections(program.read_bytes())


def unpack(tree: Tree, root: Path) -> None:
    for path, entry in sorted(tree.items()):
        target = root / path
        if stat.S_ISDIR(entry.mode):
            target.mkdir(exist_ok=True)
        elif stat.S_ISLNK(entry.mode):
            target.symlink_to(entry.read().decode())
        elif stat.S_ISREG(entry.mode):
            target.write_bytes(entry.read())
            target.chmod(stat.S_IMODE(entry.mode))


@pytest.mark.requires("root")
def test_the_guests_own_python_imports_everything_that_may_be_asked_for(tree: Tree, tmp_path: Path) -> None:
    unpack(tree, tmp_path)
    argv = ["chroot", str(tmp_path), "/usr/bin/python3.13", "-ISOOB", "-c", IMPORT_ALL, *LATE.split()]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.stderr) == ("[] upb False\n", "")
    version = subprocess.run(
        ["chroot", str(tmp_path), "/usr/bin/kata-agent", "--version"],
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert version.stdout.startswith(b"kata-agent version ")


class Assembly:
    """Whole assemblies, quickly compressed: packages and what was compiled (crun, upb, the policy engine) come from the
    cache, the rest is made anew.

    Of a copy of the sources: an edit while the tests run must not look like a difference.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sources = folder / "sources"
        for package in (
            "images/kata_images",
            "protocols/kata_protocols",
            "init/kata_linux",
            "init/kata_init",
            "agent/kata_agent",
        ):
            shutil.copytree(
                ROOT / package,
                self._sources / Path(package).name,
                ignore=shutil.ignore_patterns("__pycache__"),
            )
        original = ROOT / "images" / "recipes"
        self._recipe = folder / "quick.toml"
        text = (original / "default.toml").read_text()
        self._recipe.write_text(text.replace("compression = 19", "compression = 1"))
        (folder / "guest-requirements.txt").write_bytes((original / "guest-requirements.txt").read_bytes())

    def build(self, name: str, *before: str) -> tuple[dict[str, str], str]:
        """Return each layer's and each output's digest, and what was said."""
        output, cache = self._folder / name / "guest", self._folder / name / "cache"
        if not cache.exists():
            cache.mkdir(parents=True)
            for kept in ("apt", "archives", "packages", "compiled", "engine"):
                (cache / kept).symlink_to(BUILD / "cache" / kept)
        argv = [
            *before,
            sys.executable,
            "-m",
            "kata_images.cli",
            "build",
            "--offline",
            "--recipe",
            str(self._recipe),
        ]
        argv += ["--output", str(output), "--cache", str(cache)]
        environment = os.environ | {"PYTHONPATH": str(self._sources), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        assert not (cache / "tmp").exists() or list((cache / "tmp").iterdir()) == []
        document = json.loads((output / "manifest.json").read_text())
        digests = {layer["name"]: layer["sha256"] for layer in document["layers"]}
        for file, row in document["outputs"].items():
            assert describe_file(output / file) == row
            digests[file] = row["sha256"]
        return digests, done.stderr


@pytest.fixture(scope="module")
def assembly(tmp_path_factory: pytest.TempPathFactory) -> Assembly:
    return Assembly(tmp_path_factory.mktemp("assembly"))


def test_the_same_inputs_give_the_same_bytes(assembly: Assembly) -> None:
    first, _ = assembly.build("one")
    second, _ = assembly.build("two")
    assert first == second
    assert {"root.erofs", "root.ext4", "boot.img"} <= set(first)


def test_a_second_build_does_nothing_and_says_so(assembly: Assembly) -> None:
    first, _ = assembly.build("one")
    again, said = assembly.build("one")
    assert again == first
    assert re.fullmatch(r"kata-image: up to date: \S+/one/guest\n", said)


@pytest.mark.requires("userns")
def test_an_ordinary_user_gets_the_same_bytes(assembly: Assembly) -> None:
    first, _ = assembly.build("one")
    other, _ = assembly.build("user", "unshare", "--user", "--map-user=1000", "--map-group=1000")
    assert other == first
