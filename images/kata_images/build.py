"""Making the image: each step takes its result from the cache or makes it, the last puts the archives together.

Order: packages, kernel, what is compiled, libraries, interpreter, our packages; then vmlinuz, initrd.img and
manifest.json appear in the output folder, each by one rename, the manifest last.
"""

from __future__ import annotations

import json
import re
import shutil
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kata_images import native
from kata_images.apt import Apt, Archive, unpack
from kata_images.buildroot import unpack_root
from kata_images.bytecode import compile_sources
from kata_images.cache import Cache, key_of
from kata_images.cpio import Tree, file, read_tree
from kata_images.errors import ImageError
from kata_images.inputs import Inputs, digest_of
from kata_images.kernel import find_release, plan_modules
from kata_images.layers import LIBRARY, base_layer, busybox_layer, check_libraries, select
from kata_images.manifest import Layer, Part, make_manifest
from kata_images.native_root import place_busybox_root, place_program
from kata_images.pack import ARCHIVE, pack_layer, read_layer
from kata_images.progress import Progress
from kata_images.wheels import download, find_file, unpack_wheel

# Import packages whose name is not the distribution's.
TOP_FOLDERS = {"protobuf": "google"}


@dataclass(frozen=True)
class Options:
    """How to build, as opposed to what."""

    output: Path
    jobs: int
    zstd: str


class Builder:
    """One build: holds what the steps share."""

    def __init__(self, inputs: Inputs, apt: Apt, cache: Cache, options: Options, progress: Progress) -> None:
        self._inputs, self._recipe = inputs, inputs.recipe
        self._apt, self._cache, self._options, self._progress = apt, cache, options, progress
        self._parts: list[Part] = []
        self._layers: dict[str, tuple[Layer, Path]] = {}
        self._python = re.sub(r".*python", "", self._recipe.python.interpreter)

    def build(self) -> dict[str, Any]:
        """Make everything and return the manifest."""
        kernel = self._kernel()
        busybox = self._busybox()
        built = self._compiled()
        interpreter = self._interpreter()
        libraries = self._libraries(built, interpreter)
        agent = self._agent(interpreter)
        with self._progress.step("packing layers"):
            base = base_layer(self._recipe)
            release, folder = find_release(kernel)
            modules = plan_modules(folder, self._recipe.kernel.boot, self._recipe.kernel.modules)
            crun: Tree = {"usr/bin/crun": file(built / "crun", 0o755)}
            trees = {
                "base": base,
                "modules": modules,
                "crun": crun,
                "busybox": busybox_layer(busybox, self._recipe.busybox),
                "python": select(read_tree(interpreter), ["usr/**"], []),
                "libraries": read_tree(libraries),
                "agent": read_tree(agent),
            }
            check_libraries({path: entry for tree in trees.values() for path, entry in tree.items()})
            for name, tree in trees.items():
                self._pack(name, tree)
        self._measure_built(modules, libraries, agent)
        return self._write(kernel / "boot" / f"vmlinuz-{release}", release, built / "crun", busybox)

    # --- packages ---

    def _unpacked(self, archive: Archive, files: dict[str, Path]) -> Path:
        def make(folder: Path) -> None:
            unpack(files[archive.sha256], folder)

        return self._cache.result("packages", archive.sha256[:24], make)

    def _debian(self, group: str, archive: Archive, installed: int) -> None:
        origin = f"debian {self._recipe.image.suite} {archive.pool}"
        self._parts.append(
            Part(archive.name, group, archive.version, origin, archive.sha256, archive.size, installed)
        )

    def _kernel(self) -> Path:
        with self._progress.step(f"kernel {self._recipe.kernel.package}"):
            package = self._apt.depends_on(self._recipe.kernel.package, "linux-image-")
            archive = self._apt.resolve([package], dependencies=False)[0]
            root = self._unpacked(archive, self._apt.fetch([archive]))
            release, _ = find_release(root)
            vmlinuz = root / "boot" / f"vmlinuz-{release}"
            if not vmlinuz.is_file():
                raise ImageError(f"kernel.package: {package} has no boot/vmlinuz-{release}")
            self._debian("kernel", archive, vmlinuz.stat().st_size)
        return root

    def _busybox(self) -> Path:
        archive = self._apt.resolve([self._recipe.busybox.package], dependencies=False)[0]
        program = self._unpacked(archive, self._apt.fetch([archive])) / self._recipe.busybox.path
        if not program.is_file():
            raise ImageError(f"busybox.path: {archive.name} has no {self._recipe.busybox.path}")
        self._debian("busybox", archive, program.stat().st_size)
        return program

    def _interpreter(self) -> Path:
        recipe = self._recipe.python
        with self._progress.step(f"interpreter, {len(recipe.packages)} packages"):
            archives = self._apt.resolve(recipe.packages, dependencies=False)
            files = self._apt.fetch(archives)
            chosen: Tree = {}
            for archive in archives:
                taken = select(read_tree(self._unpacked(archive, files)), recipe.keep, recipe.drop)
                self._debian("python", archive, sum(entry.size for entry in taken.values()))
                chosen |= taken

            def make(folder: Path) -> None:
                copy_tree(chosen, folder)
                unpack_root([], folder)
                compile_sources(folder, recipe.interpreter, chosen, keep_sources=recipe.sources)

            key = key_of([archive.sha256 for archive in archives], recipe, self._inputs.builder)
            return self._cache.result("interpreter", key, make)

    # --- compiled here ---

    def _compiled(self) -> Path:
        """Return the folder with `crun` and, below `site`, the libraries that are not taken as they come."""
        crun = self._apt.resolve_source(self._recipe.crun.source)
        packages = self._apt.resolve(self._recipe.buildroot.packages, dependencies=True)
        requirements = self._inputs.requirements
        digests = [archive.sha256 for archive in (crun, *packages)]
        key = key_of(digests, self._recipe.crun, self._recipe.libraries.native, self._python,
                     [item.line for item in requirements], native.FLAGS, native.CRUN, native.UPB, native.STRIP)  # fmt: skip
        if not self._cache.has("compiled", key):
            with self._cache.temporary("buildroot") as root, self._cache.temporary("wheels") as wheels:
                self._prepare_root(packages, root)
                with self._progress.step("libraries from the package index"):
                    download(requirements, wheels, native=self._recipe.libraries.native, python=self._python)
                self._cache.result("compiled", key, lambda folder: self._compile(root, crun, wheels, folder))
        self._parts.append(
            Part(self._recipe.crun.source, "crun", crun.version, f"debian {self._recipe.image.suite} {crun.pool}",
                 crun.sha256, crun.size, (self._cache.folder / "compiled" / key / "crun").stat().st_size)
        )  # fmt: skip
        return self._cache.folder / "compiled" / key

    def _prepare_root(self, packages: Sequence[Archive], root: Path) -> None:
        with self._progress.step(f"build root, {len(packages)} packages"):
            files = self._apt.fetch(packages)
            unpack_root(files.values(), root)

    def _compile(self, root: Path, crun: Archive, wheels: Path, folder: Path) -> None:
        jobs = self._options.jobs
        with self._progress.step(f"compiling crun {crun.version}"):
            tarball = self._apt.fetch([crun])[crun.sha256]
            native.build_crun(
                root,
                tarball,
                folder / "crun",
                version=crun.version,
                jobs=jobs,
                configure=self._recipe.crun.configure,
            )
        site = folder / "site"
        site.mkdir()
        for item in self._inputs.requirements:
            if item.name not in self._recipe.libraries.native:
                unpack_wheel(find_file(wheels, item), site)
        native.strip_libraries(root, site)
        for name in self._recipe.libraries.native:
            item = self._inputs.requirement(name)
            if name != "protobuf":
                raise ImageError(f"libraries.native: {name}: only protobuf can be built here")
            with self._progress.step(f"compiling {name} {item.version}"):
                suffix = f"cpython-{self._python.replace('.', '')}-x86_64-linux-gnu"
                native.build_protobuf(root, find_file(wheels, item), site, jobs=jobs, suffix=suffix)

    # --- Python trees ---

    def _python_layer(self, kind: str, tree: Tree, interpreter: Path) -> Path:
        """Return a folder with these files below the library folder, compiled by the guest's interpreter."""
        named = {f"{LIBRARY}/{path}": entry for path, entry in tree.items()}

        def make(folder: Path) -> None:
            with self._cache.temporary(kind) as root:
                copy_tree(read_tree(interpreter), root)
                copy_tree(named, root)
                recipe = self._recipe.python
                compile_sources(root, recipe.interpreter, named, keep_sources=recipe.sources)
                copy_tree(select(read_tree(root), [f"{LIBRARY}/**"], []), folder)

        key = key_of(digest_of(named), interpreter.name, self._inputs.builder)
        return self._cache.result(kind, key, make)

    def _libraries(self, built: Path, interpreter: Path) -> Path:
        with self._progress.step("libraries, byte-compiled"):
            tree = select(read_tree(built / "site"), ["**"], self._recipe.libraries.drop)
            return self._python_layer("libraries", tree, interpreter)

    def _agent(self, interpreter: Path) -> Path:
        with self._progress.step("agent, byte-compiled"):
            return self._python_layer("agent", self._inputs.sources, interpreter)

    # --- output ---

    def _pack(self, name: str, tree: Tree) -> None:
        level = self._recipe.image.compression
        key = key_of(name, digest_of(tree), level, self._options.zstd)
        folder = self._cache.result("layers", key, lambda made: pack_layer(name, tree, level, made))
        self._layers[name] = (read_layer(folder), folder / ARCHIVE)

    def _measure_built(self, modules: Tree, libraries: Path, agent: Path) -> None:
        for item in self._inputs.requirements:
            installed = size_below(libraries / LIBRARY / TOP_FOLDERS.get(item.name, item.name))
            kind = "sdist" if item.name in self._recipe.libraries.native else "wheel"
            part = Part(
                item.name,
                "libraries",
                item.version,
                f"python package index, {kind}",
                item.hashes[0],
                0,
                installed,
            )
            self._parts.append(part)
        for name in self._recipe.agent.packages:
            tree = {
                path: entry for path, entry in self._inputs.sources.items() if path.startswith(f"{name}/")
            }
            size = sum(entry.size for entry in tree.values())
            installed = size_below(agent / LIBRARY / name)
            self._parts.append(
                Part(name, "agent", "source", "this repository", digest_of(tree), size, installed)
            )
        kernel = next(part for part in self._parts if part.group == "kernel")
        size = sum(entry.size for entry in modules.values())
        self._parts.append(
            Part(
                f"{kernel.name} (modules)",
                "modules",
                kernel.version,
                kernel.origin,
                kernel.sha256,
                kernel.size,
                size,
            )
        )

    def _write(self, vmlinuz: Path, release: str, crun: Path, busybox: Path) -> dict[str, Any]:
        output = self._options.output
        output.mkdir(parents=True, exist_ok=True)
        with self._progress.step(f"writing {output}"):
            with (output / ".initrd.img.new").open("wb") as initrd:
                for _, archive in self._layers.values():
                    initrd.write(archive.read_bytes())
            shutil.copyfile(vmlinuz, output / ".vmlinuz.new")
            place_program(crun, output.parent / "crun")
            place_busybox_root(busybox, output.parent / "rootfs/busybox")
            names = ("vmlinuz", "initrd.img")
            (output / "manifest.json").unlink(missing_ok=True)
            for name in names:
                (output / f".{name}.new").rename(output / name)
            document = make_manifest(
                key=self._inputs.key, release=release, suite=self._recipe.image.suite,
                tools={"zstd": self._options.zstd}, parts=self._parts,
                layers=[layer for layer, _ in self._layers.values()],
                outputs={name: output / name for name in names},
            )  # fmt: skip
            (output / ".manifest.json.new").write_text(json.dumps(document, indent=1) + "\n")
            (output / ".manifest.json.new").rename(output / "manifest.json")
        return document


def copy_tree(tree: Tree, root: Path) -> None:
    """Write files, links and folders of a tree below a folder."""
    for path, entry in sorted(tree.items()):
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if stat.S_ISDIR(entry.mode):
            target.mkdir(exist_ok=True)
        elif stat.S_ISLNK(entry.mode):
            target.symlink_to(entry.read().decode())
        else:
            target.write_bytes(entry.read())
            target.chmod(stat.S_IMODE(entry.mode))


def size_below(folder: Path) -> int:
    """Return the bytes of the files below a folder."""
    return sum(entry.size for entry in read_tree(folder).values() if stat.S_ISREG(entry.mode))
