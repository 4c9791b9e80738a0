"""The layers of the initrd: each is a tree of entries, packed as an archive of its own (pure but for reading files).

The kernel unpacks archives one after the other, so a layer that did not change is not packed again, and what a part
costs in the initrd is simply its archive's size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from kata_images.cpio import Entry, Tree, character_device, file, folder, link
from kata_images.elf import needed_libraries
from kata_images.errors import ImageError
from kata_images.pattern import matches
from kata_images.recipe import Busybox, Programs, Recipe

LIBRARY = (
    "usr/lib/kata"  # our packages and the libraries; no site-packages, because the interpreter starts with -S
)
FOLDERS = (
    "dev",
    "etc",
    "home",
    "mnt",
    "proc",
    "root",
    "run",
    "sys",
    "usr/bin",
    "usr/lib",
    "usr/lib64",
    "var/log",
)
LINKS = {
    "bin": "usr/bin",
    "sbin": "usr/bin",
    "lib": "usr/lib",
    "lib64": "usr/lib64",
    "usr/sbin": "bin",
    "var/run": "../run",
    "var/tmp": "../tmp",
    "etc/mtab": "../proc/self/mounts",
    "init": "usr/bin/kata-init",
}
# One argument is all that `#!` can pass: isolated, no site, no docstrings, no byte code written.
LAUNCHER = """#!/{interpreter} -ISOOB
import sys
sys.path.append("/{library}")
from {module} import main
sys.exit(main())
"""
LAUNCHERS = {"usr/bin/kata-init": "kata_init.main", "usr/bin/kata-agent": "kata_agent.main"}


def select(tree: Mapping[str, Entry], keep: Iterable[str], drop: Iterable[str]) -> Tree:
    """Return what matches `keep` and not `drop`, folders left out: packing adds the ones that are needed."""
    keep, drop = tuple(keep), tuple(drop)
    chosen = {path: entry for path, entry in tree.items() if entry.mode & 0o170000 != 0o040000}
    return {path: entry for path, entry in chosen.items() if matches(path, keep) and not matches(path, drop)}


def base_layer(recipe: Recipe) -> Tree:
    """Return folders, links, the first device nodes, the launchers and the recipe's own files."""
    tree: Tree = {name: folder() for name in FOLDERS}
    tree["tmp"] = folder(0o1777)
    tree["root"] = folder(0o700)
    tree |= {name: link(target) for name, target in LINKS.items()}
    # The kernel opens /dev/console for PID 1 before PID 1 can mount devtmpfs.
    tree["dev/console"] = character_device(5, 1, 0o600)
    tree["dev/null"] = character_device(1, 3, 0o666)
    for path, module in LAUNCHERS.items():
        text = LAUNCHER.format(interpreter=recipe.python.interpreter, library=LIBRARY, module=module)
        tree[path] = file(text.encode(), 0o755)
    for path, extra in recipe.files.items():
        content = recipe.folder / extra.source if extra.source else extra.text.encode()
        if isinstance(content, Path) and not content.is_file():
            raise ImageError(f'files."{path}": {content}: no such file')
        tree[path] = file(content, extra.mode)
    return tree


def busybox_layer(program: Path, recipe: Busybox) -> Tree:
    """Return busybox and a link for each applet."""
    tree: Tree = {"usr/bin/busybox": file(program, 0o755)}
    return tree | {f"usr/bin/{applet}": link("busybox") for applet in recipe.applets}


def program_files(tree: Mapping[str, Entry], recipe: Programs) -> Tree:
    """Return what the recipe takes of a package, where the guest has it: /usr/sbin is a link to /usr/bin there."""
    taken = select(tree, recipe.keep, recipe.drop)
    return {path.replace("usr/sbin/", "usr/bin/", 1): entry for path, entry in taken.items()}


def check_libraries(tree: Mapping[str, Entry]) -> None:
    """Raise when a program or library of the image needs a library that is not in it."""
    present = {path.rpartition("/")[2] for path in tree}
    for path, entry in sorted(tree.items()):
        if entry.mode & 0o170000 == 0o100000 and (".so" in path or "/bin/" in path):
            for name in needed_libraries(entry.read()):
                if name not in present:
                    raise ImageError(
                        f"{path} needs {name}, which is not in the image: keep it or drop {path}"
                    )
