"""The policy engine: the crate inside `kata_policy`, compiled by Debian's Rust in a root of its own.

Its result is a folder with the wheel that maturin makes (for this machine) and the one file in it (for the guest):
one for every CPython from 3.11 on. Crates are fetched by cargo, by name and against Cargo.lock, from where the
machine's own cargo fetches: its configuration file, its CARGO_* variables, its proxies and certificates.
"""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path

from kata_images.buildroot import run_in, unpack_root
from kata_images.cache import key_of
from kata_images.cpio import Tree, file
from kata_images.errors import ImageError
from kata_images.inputs import digest_of
from kata_images.layers import LIBRARY
from kata_images.manifest import Part
from kata_images.workshop import Workshop, copy_tree

COMPILE_DEADLINE_S = 1800.0
CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"
MODULE = "kata_policy_engine.abi3.so"
WHEEL = "*-abi3-linux_x86_64.whl"

# Cargo.lock in the repository names no index: cargo's own, which it writes into the lock of a crate made for that, is
# put in its place. Debian's cc is a link that a maintainer script makes.
SCRIPT = """
export CARGO_HOME=/build/cargo CARGO_TARGET_DIR=/build/target CARGO_INCREMENTAL=0 CARGO_TERM_COLOR=never
export CC=gcc CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER=gcc PYO3_BUILD_EXTENSION_MODULE=1
export RUSTFLAGS="--remap-path-prefix=/build=."
mkdir -p /build/probe/src && cd /build/probe && : > src/lib.rs
printf '[package]\\nname = "probe"\\nversion = "0.0.0"\\nedition = "2021"\\n[dependencies]\\nitoa = "1"\\n' > Cargo.toml
cargo generate-lockfile --quiet
while read -r key _ value; do [ "$key" != source ] || index=$value; done < Cargo.lock
cd /build/engine
lock=$(<Cargo.lock)
printf '%s\\n' "${lock//'"@index@"'/$index}" > Cargo.lock
cargo fetch --quiet --locked
maturin build --quiet --release --offline --locked --jobs "$1" --compatibility linux --interpreter "$2" --out /build/out
"""


def make_engine(shop: Workshop) -> Path | None:
    """Return the result's folder, or nothing when the recipe wants no engine."""
    recipe = shop.recipe.policy
    if not recipe.packages:
        return None
    crate = shop.inputs.engine
    packages = shop.apt.resolve(recipe.packages, dependencies=True)
    # Not the packages' digests: a security update of gcc's documentation is no reason to compile for minutes.
    compilers = [archive.version for archive in packages if archive.name.startswith(("rustc", "cargo"))]
    key = key_of(digest_of(crate), sorted(recipe.packages), compilers, SCRIPT)
    if not shop.cache.has("engine", key):
        with shop.cache.temporary("rustroot") as root:
            with shop.progress.step(f"build root for Rust, {len(packages)} packages"):
                unpack_root(shop.apt.fetch(packages).values(), root)
            with shop.progress.step("compiling the policy engine"):
                shop.cache.result("engine", key, lambda folder: _compile(shop, root, crate, folder))
    result = shop.cache.folder / "engine" / key
    shop.parts.append(
        Part(
            name="kata_policy_engine",
            group="policy",
            version="source",
            origin="this repository, crates by Cargo.lock",
            sha256=digest_of(crate),
            size=sum(entry.size for entry in crate.values()),
            installed=(result / MODULE).stat().st_size,
        )
    )
    return result


def engine_layers(result: Path | None) -> dict[str, Tree]:
    """Return the guest's part, a layer with the extension beside our packages, or none."""
    return {} if result is None else {"policy": {f"{LIBRARY}/{MODULE}": file(result / MODULE, 0o644)}}


def place_wheel(result: Path | None, folder: Path) -> None:
    """Put the wheel where scripts/image takes it from, in the place of an older one."""
    if result is None:
        return
    wheel = _only(result, WHEEL)
    target = folder / wheel.name
    if target.exists() and target.read_bytes() == wheel.read_bytes():
        return
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / f".{wheel.name}.new"
    shutil.copyfile(wheel, fresh)
    fresh.rename(target)


def _compile(shop: Workshop, root: Path, crate: Tree, folder: Path) -> None:
    copy_tree(crate, root / "build/engine")
    _let_cargo_out(root)
    told = {name: value for name, value in os.environ.items() if _is_cargos(name)}
    told["CARGO_HTTP_CAINFO"] = f"/{CERTIFICATES}"
    told.setdefault("CARGO_NET_RETRY", "10")  # later and later, as `kata_images.network` does for the others
    argv = ["/bin/bash", "-euc", SCRIPT, "sh", str(shop.jobs), f"python{shop.python}"]
    run_in(root, argv, deadline_s=COMPILE_DEADLINE_S, environment=told)
    wheel = _only(root / "build/out", WHEEL)
    shutil.copyfile(wheel, folder / wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        (folder / MODULE).write_bytes(archive.read(f"kata_policy_engine/{MODULE}"))


def _is_cargos(name: str) -> bool:
    """Tell whether a variable says how to reach a registry."""
    words = ("CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR", "CARGO_SOURCE_")
    return name.lower().endswith("_proxy") or name.startswith(words)


def _let_cargo_out(root: Path) -> None:
    """Give the root what a program needs to reach a registry: the name servers, certificates, cargo's configuration."""
    certificates = (
        os.environ.get("CARGO_HTTP_CAINFO") or os.environ.get("SSL_CERT_FILE") or f"/{CERTIFICATES}"
    )
    home = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo")
    wanted = {
        "etc/resolv.conf": Path("/etc/resolv.conf"),
        "etc/hosts": Path("/etc/hosts"),
        CERTIFICATES: Path(certificates),
        "build/cargo/config.toml": home / "config.toml",
    }
    for name, source in wanted.items():
        if source.is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, root / name)


def _only(folder: Path, pattern: str) -> Path:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise ImageError(f"{folder}: {len(found)} files like {pattern} instead of one")
    return found[0]
