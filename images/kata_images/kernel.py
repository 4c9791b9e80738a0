"""The kernel package: its image, and the modules a recipe names with all they depend on (the closure is pure).

What PID 1 loads is stored decompressed, because every boot would pay for xz; what modprobe may load stays as Debian
packed it, which is no larger in the initrd and 5 MB less of each guest's memory. `modules.dep` and its index-free
siblings are written here from each module's `.modinfo`, so that no depmod is needed; busybox modprobe reads them.
"""

from __future__ import annotations

import lzma
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from kata_images.cpio import Tree, file
from kata_images.elf import module_info
from kata_images.errors import ImageError

BOOT_LIST = "etc/kata-init/modules"


@dataclass(frozen=True)
class Module:
    """A module file: its path below the release's folder, what it needs by name, its bytes plain and as packed."""

    path: str
    depends: tuple[str, ...]
    image: bytes
    packed: bytes


def canonical(name: str) -> str:
    """Return the name as the kernel reports it: `dm-verity` is `dm_verity`."""
    return name.replace("-", "_")


def find_release(root: Path) -> tuple[str, Path]:
    """Return the kernel release of an unpacked kernel package and its modules' folder."""
    folders = sorted((root / "usr/lib/modules").glob("*")) or sorted((root / "lib/modules").glob("*"))
    if not folders:
        raise ImageError("the kernel package holds no modules; name another one in kernel.package")
    return folders[0].name, folders[0]


def built_in(folder: Path) -> set[str]:
    """Return the names of what is no module in this kernel."""
    lines = (folder / "modules.builtin").read_text().split()
    return {canonical(Path(line).name.partition(".")[0]) for line in lines}


def read_module(path: Path, folder: Path) -> Module:
    """Read one module file, decompressed."""
    data = path.read_bytes()
    image = lzma.decompress(data) if path.suffix == ".xz" else data
    depends = tuple(canonical(name) for name in module_info(image).get("depends", "").split(",") if name)
    return Module(str(path.relative_to(folder)), depends, image, data)


def decompressed(module: Module) -> Module:
    """Return the module as it is stored for loading at boot."""
    return replace(module, path=module.path.removesuffix(".xz"), packed=module.image)


def load_closure(folder: Path, wanted: Iterable[str]) -> dict[str, Module]:
    """Return the modules asked for and all they need, each after what it needs; what is built in is left out."""
    files = {canonical(path.name.partition(".ko")[0]): path for path in folder.rglob("*.ko*")}
    inside = built_in(folder)
    loaded: dict[str, Module] = {}
    known: dict[str, Module] = {}

    def need(name: str, asked_by: str) -> None:
        if name in loaded or name in inside:
            return
        if name not in files:
            raise ImageError(f"kernel module {name}, asked for by {asked_by}: not in kernel {folder.name}")
        module = known.setdefault(name, read_module(files[name], folder))
        for dependency in module.depends:
            need(dependency, name)
        loaded[name] = module

    for name in wanted:
        need(canonical(name), "the recipe")
    return loaded


def dependency_lines(modules: Mapping[str, Module]) -> str:
    """Return modules.dep: each path with every module to load before it, the nearest first, as depmod writes it."""
    lines = []
    for name, module in sorted(modules.items(), key=lambda item: item[1].path):
        before = [modules[needed].path for needed in closure_of(name, modules)]
        lines.append(f"{module.path}:{''.join(' ' + path for path in reversed(before))}\n")
    return "".join(lines)


def closure_of(name: str, modules: Mapping[str, Module]) -> list[str]:
    """Return what a module needs in loading order, itself not included."""
    order: list[str] = []
    for needed in modules[name].depends:
        if needed in modules:
            order += [item for item in [*closure_of(needed, modules), needed] if item not in order]
    return order


def alias_lines(modules: Mapping[str, Module]) -> str:
    """Return modules.alias, by which the kernel's own requests (`fs-erofs`, `virtio:...`) find a module."""
    lines = []
    for name, module in sorted(modules.items()):
        aliases = {item[6:].decode() for item in module.image.split(b"\0") if item.startswith(b"alias=")}
        lines += [f"alias {alias} {name}\n" for alias in sorted(aliases)]
    return "".join(lines)


def plan_modules(folder: Path, boot: Iterable[str], groups: Mapping[str, Iterable[str]]) -> Tree:
    """Return the files of the modules layer: the modules, their indexes, and PID 1's list with whole paths."""
    base = f"usr/lib/modules/{folder.name}"
    first = {name: decompressed(module) for name, module in load_closure(folder, boot).items()}
    wanted = [name for group in groups.values() for name in group]
    modules = load_closure(folder, wanted) | first
    tree: Tree = {f"{base}/{module.path}": file(module.packed) for module in modules.values()}
    tree[f"{base}/modules.dep"] = file(dependency_lines(modules).encode())
    tree[f"{base}/modules.alias"] = file(alias_lines(modules).encode())
    for name in ("modules.builtin", "modules.order"):
        tree[f"{base}/{name}"] = file((folder / name).read_bytes())
    tree[BOOT_LIST] = file("".join(f"/{base}/{module.path}\n" for module in first.values()).encode())
    return tree
