"""The layers that hold Python: interpreter, libraries, our packages; trimmed, compiled by the guest's own Python.

Libraries and our packages lie in one folder of their own (`layers.LIBRARY`), which the launchers put on the path: the
interpreter starts with -S, so there is no site-packages.
"""

from __future__ import annotations

import json
from pathlib import Path

from kata_images.buildroot import unpack_root
from kata_images.bytecode import compile_sources
from kata_images.cache import key_of
from kata_images.cpio import Tree, read_tree
from kata_images.inputs import digest_of
from kata_images.layers import LIBRARY, select
from kata_images.manifest import Part
from kata_images.workshop import Workshop, copy_tree, size_below

# Import packages whose name is not the distribution's.
TOP_FOLDERS = {"protobuf": "google", "pyyaml": "yaml"}


def make_interpreter(shop: Workshop) -> Path:
    """Return a root with the trimmed interpreter in it, able to run."""
    recipe = shop.recipe.python
    with shop.progress.step(f"interpreter, {len(recipe.packages)} packages"):
        chosen: Tree = {}
        owner: dict[str, str] = {}
        packages = shop.fetch_unpacked(recipe.packages)
        for archive, folder in packages:
            taken = select(read_tree(folder), recipe.keep, recipe.drop)
            owner |= dict.fromkeys(taken, archive.name)
            chosen |= taken

        def make(folder: Path) -> None:
            copy_tree(chosen, folder)
            unpack_root([], folder)
            compile_sources(folder, recipe.interpreter, chosen, keep_sources=recipe.sources)

        key = key_of([archive.sha256 for archive, _ in packages], recipe, shop.inputs.builder)
        root = shop.cache.result("interpreter", key, make)
    sizes: dict[str, int] = {}
    for path, entry in interpreter_layer(root).items():
        source = path.replace("__pycache__/", "").partition(".cpython-")[0] + ".py"
        name = owner.get(path) or owner.get(path.removesuffix("c")) or owner.get(source, "")
        sizes[name] = sizes.get(name, 0) + entry.size
    for archive, _ in packages:
        shop.record("python", archive, sizes.get(archive.name, 0))
    return root


def interpreter_layer(root: Path) -> Tree:
    """Return the interpreter's files, without what running it in a root needs."""
    return select(read_tree(root), ["usr/**"], [])


def make_libraries(shop: Workshop, compiled: Path, interpreter: Path) -> Tree:
    """Return the libraries' layer."""
    with shop.progress.step("libraries to byte code"):
        tree = select(read_tree(compiled / "site"), ["**"], shop.recipe.libraries.drop)
        layer = _compiled_tree(shop, "libraries", tree, interpreter)
    downloads = json.loads((compiled / "downloads.json").read_text())
    for item in shop.inputs.requirements:
        kind = "sdist" if item.name in shop.recipe.libraries.native else "wheel"
        folder = layer / LIBRARY / TOP_FOLDERS.get(item.name, item.name)
        part = Part(
            name=item.name,
            group="libraries",
            version=item.version,
            origin=f"python package index, {kind}",
            sha256=item.hashes[0],
            size=downloads[item.name],
            installed=size_below(folder),
        )
        shop.parts.append(part)
    return read_tree(layer)


def make_agent(shop: Workshop, interpreter: Path) -> Tree:
    """Return the layer of our own packages."""
    sources = shop.inputs.sources
    with shop.progress.step("agent to byte code"):
        layer = _compiled_tree(shop, "agent", sources, interpreter)
    for name in shop.recipe.agent.packages:
        own = {path: entry for path, entry in sources.items() if path.startswith(f"{name}/")}
        part = Part(
            name=name,
            group="agent",
            version="source",
            origin="this repository",
            sha256=digest_of(own),
            size=sum(entry.size for entry in own.values()),
            installed=size_below(layer / LIBRARY / name),
        )
        shop.parts.append(part)
    return read_tree(layer)


def _compiled_tree(shop: Workshop, kind: str, tree: Tree, interpreter: Path) -> Path:
    """Return a folder with these files below the library folder, compiled in a copy of the interpreter's root."""
    named = {f"{LIBRARY}/{path}": entry for path, entry in tree.items()}
    recipe = shop.recipe.python

    def make(folder: Path) -> None:
        with shop.cache.temporary(kind) as root:
            copy_tree(read_tree(interpreter), root)
            copy_tree(named, root)
            compile_sources(root, recipe.interpreter, named, keep_sources=recipe.sources)
            copy_tree(select(read_tree(root), [f"{LIBRARY}/**"], []), folder)

    return shop.cache.result(kind, key_of(digest_of(named), interpreter.name, shop.inputs.builder), make)
