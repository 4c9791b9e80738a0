"""boot.img: the small initramfs that mounts a root disk. It holds PID 1's first stage and no more than that loads.

What the stage needs of Python is not listed but seen: the interpreter runs its imports in a root made of the layers,
and the files that it opened are what is packed. The modules of each kind of disk lie beside it, with their own list.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from kata_images.buildroot import run_in, unpack_root
from kata_images.cache import key_of
from kata_images.cpio import Entry, Tree, character_device, file, folder, link
from kata_images.inputs import digest_of
from kata_images.kernel import decompressed, load_closure
from kata_images.layers import LAUNCHER, LIBRARY, select
from kata_images.workshop import Workshop, copy_tree

SEE_DEADLINE_S = 60.0
MODULE = "kata_init.stage"
PACKAGES = ("kata_init", "kata_linux")
MODULES_LIST = "etc/kata-init/root-modules"
FOLDERS = ("dev", "proc", "root", "sys")
LINKS = {"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64"}

# Every file that importing the stage maps or loads, and what the interpreter looks for before it imports anything.
PROGRAM = f"""
import sys
sys.path.append("/{LIBRARY}")
import importlib, {MODULE}
for name in {MODULE}.LATE:
    importlib.import_module(name)
files = {{getattr(module, "__file__", None) for module in sys.modules.values()}}
with open("/proc/self/maps") as maps:
    files |= {{line.split()[5] for line in maps if len(line.split()) > 5}}
import json
print(json.dumps(sorted(file for file in files if file and file.startswith("/usr/"))))
"""


def make_stage(shop: Workshop, interpreter: Tree, agent: Tree, modules_folder: Path) -> Tree:
    """Return the initramfs's tree."""
    own = select(agent, [f"{LIBRARY}/{package}/**" for package in PACKAGES], [])
    tree = interpreter | own
    key = key_of(digest_of(tree), PROGRAM)
    with shop.progress.step("what the first stage needs"):
        seen = shop.cache.result("stage", key, lambda made: _see(shop, tree, made))
    needed = json.loads((seen / "files.json").read_text())
    return stage_tree(tree, needed, shop.recipe.python.interpreter) | stage_modules(shop, modules_folder)


def stage_tree(tree: Mapping[str, Entry], needed: list[str], interpreter: str) -> Tree:
    """Return the files that were seen, and what a kernel and an interpreter start with (pure)."""
    chosen: Tree = {name: folder() for name in FOLDERS}
    chosen |= {name: link(target) for name, target in LINKS.items()}
    chosen["dev/console"] = character_device(5, 1, 0o600)
    chosen["dev/null"] = character_device(1, 3, 0o666)
    launcher = LAUNCHER.format(interpreter=interpreter, library=LIBRARY, module=MODULE)
    chosen["init"] = file(launcher.encode(), 0o755)
    chosen[interpreter] = tree[interpreter]
    seen = {path.lstrip("/") for path in needed}
    names = {path.rpartition("/")[2] for path in seen if ".so" in path}
    for path, entry in tree.items():
        # A library is mapped by its real name and asked for by the link to it.
        linked = entry.mode & 0o170000 == 0o120000 and entry.read().decode().rpartition("/")[2] in names
        if path in seen or linked:
            chosen[path] = entry
    return chosen


def stage_modules(shop: Workshop, modules: Path) -> Tree:
    """Return the modules that reach a root disk, plain, and the list that says which kind of disk needs which."""
    base = f"usr/lib/modules/{modules.name}"
    tree: Tree = {}
    lines = []
    for need, names in shop.recipe.root.modules.items():
        for module in map(decompressed, load_closure(modules, names).values()):
            tree[f"{base}/{module.path}"] = file(module.packed)
            lines.append(f"{need} /{base}/{module.path}\n")
    return tree | {MODULES_LIST: file("".join(lines).encode())}


def _see(shop: Workshop, tree: Tree, made: Path) -> None:
    with shop.cache.temporary("stage") as root:
        copy_tree(tree, root)
        unpack_root([], root)
        argv = [f"/{shop.recipe.python.interpreter}", "-ISOOB", "-c", PROGRAM]
        (made / "files.json").write_bytes(run_in(root, argv, deadline_s=SEE_DEADLINE_S))
