"""What is compiled for the guest: crun and protobuf's C extension, in a Debian root of the guest's suite.

crun is linked statically without libsystemd (docs/decisions/0001); upb is built from protobuf's sdist because the
wheel's is linked against libstdc++, 2 MB that nothing else in the guest needs. The shell texts run inside the root.
"""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

from kata_images.buildroot import run_in
from kata_images.errors import ImageError

COMPILE_DEADLINE_S = 1200.0
FLAGS = "-O2 -g0 -fstack-protector-strong -D_FORTIFY_SOURCE=2 -ffile-prefix-map=/build=."

CRUN = """
cd "$1"; jobs=$2; version=$3; shift 3
echo "#define GIT_VERSION \\"$version\\"" > git-version.h
./configure --disable-dependency-tracking CFLAGS="$FLAGS" "$@"
# The embedded parsers are a project of their own; its tests are not built.
make -j"$jobs" -C libocispec LDFLAGS=-all-static
make -j"$jobs" LDFLAGS=-all-static crun
strip crun
./crun --version
"""

# The sources that protobuf's own setup.py compiles; the table-driven fast decoder is left out there too.
UPB = """
cd "$1"; jobs=$2; suffix=$3
include=$(echo /usr/include/python3.*)
find google/protobuf python -maxdepth 1 -name '*.c' > sources
find upb utf8_range -name '*.c' ! -name '*decode_fast*' ! -name '*test*' >> sources
LC_ALL=C sort -o sources sources
xargs -P "$jobs" -I {} gcc $FLAGS -DNDEBUG -fPIC -fvisibility=hidden -ffunction-sections -fdata-sections \
    -I . -I utf8_range -I "$include" -c {} -o {}.o < sources
mkdir -p google/_upb
sed 's/$/.o/' sources | xargs gcc -shared -Wl,--gc-sections,-O1 -o "google/_upb/_message.$suffix.so"
strip --strip-unneeded "google/_upb/_message.$suffix.so"
"""

STRIP = 'for file; do strip --strip-unneeded "$file"; done'


def unpack_source(tarball: Path, folder: Path) -> Path:
    """Unpack a source tarball and return its one top folder."""
    folder.mkdir(parents=True)
    with tarfile.open(tarball) as archive:
        # Python 3.11.2, which is Debian 12's, knows no filters; the archive's hash was checked in any case.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(folder)  # noqa: S202 - filtered where that exists
    tops = [path for path in folder.iterdir() if path.is_dir()]
    if len(tops) != 1:
        raise ImageError(f"{tarball.name}: has {len(tops)} top folders instead of one")
    return tops[0]


def _shell(root: Path, script: str, arguments: Sequence[str]) -> None:
    text = f"set -eu; FLAGS='{FLAGS}'; {script}"
    run_in(root, ["/bin/bash", "-c", text, "sh", *arguments], deadline_s=COMPILE_DEADLINE_S)


def build_crun(
    root: Path, tarball: Path, output: Path, *, version: str, jobs: int, configure: Sequence[str]
) -> None:
    """Compile crun statically and put the program at `output`."""
    source = unpack_source(tarball, root / "build/crun")
    inside = f"/{source.relative_to(root)}"
    _shell(root, CRUN, [inside, str(jobs), version, *configure])
    shutil.copyfile(source / "crun", output)
    output.chmod(0o755)


def build_protobuf(root: Path, sdist: Path, output: Path, *, jobs: int, suffix: str) -> None:
    """Compile upb and put protobuf's Python package with it below `output`."""
    source = unpack_source(sdist, root / "build/protobuf")
    _shell(root, UPB, [f"/{source.relative_to(root)}", str(jobs), suffix])
    kept = shutil.ignore_patterns("*.c", "*.h", "*.o")
    shutil.copytree(source / "google", output / "google", ignore=kept)


def strip_libraries(root: Path, folder: Path) -> None:
    """Remove debug information from the shared libraries below a folder, with the root's own binutils."""
    inside = root / "build/strip"
    shutil.copytree(folder, inside)
    names = [f"/{path.relative_to(root)}" for path in sorted(inside.rglob("*.so"))]
    if names:
        _shell(root, STRIP, names)
    shutil.rmtree(folder)
    shutil.copytree(inside, folder)
