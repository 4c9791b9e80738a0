"""Making the image: each step takes its result from the cache or makes it, the last puts the archives together.

vmlinuz, initrd.img, the root disks with their boot.img, and manifest.json appear in the output folder each by one
rename, the manifest last: where there is a manifest there is the image that it describes.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from kata_images.agent_archive import NAME as AGENT_ARCHIVE
from kata_images.agent_archive import write_agent_archive
from kata_images.apt import Archive
from kata_images.bootstage import make_stage
from kata_images.cache import key_of
from kata_images.compiled import make_compiled
from kata_images.cpio import Tree, file, link, read_tree
from kata_images.engine import engine_layers, make_engine, place_wheel
from kata_images.errors import ImageError
from kata_images.inputs import digest_of
from kata_images.kernel import find_release, plan_modules
from kata_images.layers import base_layer, busybox_layer, check_libraries, program_files
from kata_images.manifest import Layer, RootImage, make_manifest
from kata_images.native_root import place_busybox_root, place_program
from kata_images.pack import ARCHIVE, pack_layer, read_layer
from kata_images.python_trees import interpreter_layer, make_agent, make_interpreter, make_libraries
from kata_images.rootfs import make_root_images
from kata_images.workshop import Workshop, size_of

# Results of these kinds change with every edit; the newest few are kept, so that going back costs nothing.
CHANGING = ("agent", "interpreter", "layers", "libraries", "stage")
BULKY = ("roots",)
COPY_BYTES = 1 << 20


def build_image(shop: Workshop, output: Path) -> dict[str, Any]:
    """Make everything, write it to the output folder and return the manifest."""
    with shop.progress.step(f"kernel {shop.recipe.kernel.package}"):
        kernel, root = fetch_kernel(shop)
        release, folder = find_release(root)
        modules = plan_modules(folder, shop.recipe.kernel.boot, shop.recipe.kernel.modules)
    vmlinuz = root / "boot" / f"vmlinuz-{release}"
    shop.record("kernel", kernel, vmlinuz.stat().st_size)
    shop.record("modules", kernel, size_of(modules), name=f"{kernel.name} modules")
    busybox = fetch_busybox(shop)
    compiled = make_compiled(shop)
    engine = make_engine(shop)
    interpreter = make_interpreter(shop)
    trees: dict[str, Tree] = {
        "base": base_layer(shop.recipe),
        "modules": modules,
        "crun": {"usr/bin/crun": file(compiled / "crun", 0o755)},
        "busybox": busybox_layer(busybox, shop.recipe.busybox),
        "programs": fetch_programs(shop),
        "python": interpreter_layer(interpreter),
        "libraries": make_libraries(shop, compiled, interpreter),
        **engine_layers(engine),
        "agent": make_agent(shop, interpreter),
    }
    check_libraries({path: entry for tree in trees.values() for path, entry in tree.items()})
    with shop.progress.step("packing layers"):
        layers = [pack(shop, name, tree) for name, tree in trees.items()]
    roots = make_root_images(shop, trees)
    stage = pack(shop, "stage", make_stage(shop, trees["python"], trees["agent"], folder)) if roots else None
    with shop.progress.step(f"writing {output}"):
        place_program(compiled / "crun", output.parent / "crun")
        place_wheel(engine, output.parent / "policy")
        place_busybox_root(busybox, output.parent / "rootfs/busybox")
        output.mkdir(parents=True, exist_ok=True)
        write_agent_archive(trees["agent"], output / f".{AGENT_ARCHIVE}.new")
        contents: dict[str, list[Path]] = {"vmlinuz": [vmlinuz], "initrd.img": [path for _, path in layers]}
        if stage:
            contents["boot.img"] = [stage[1]]
        contents |= {image.file: [path] for image, path in roots.values()}
        document = write_image(shop, output, release, contents, layers, stage, roots)
    shop.cache.prune(CHANGING)
    shop.cache.prune(BULKY, keep=4)
    return document


def fetch_kernel(shop: Workshop) -> tuple[Archive, Path]:
    """Return the kernel's package and where it is unpacked; a metapackage stands for what it depends on."""
    package = shop.apt.depends_on(shop.recipe.kernel.package, "linux-image-")
    archive, root = shop.fetch_unpacked([package])[0]
    release, _ = find_release(root)
    if not (root / "boot" / f"vmlinuz-{release}").is_file():
        raise ImageError(f"kernel.package: {package} has no boot/vmlinuz-{release}")
    return archive, root


def fetch_busybox(shop: Workshop) -> Path:
    """Return the busybox program."""
    archive, root = shop.fetch_unpacked([shop.recipe.busybox.package])[0]
    program = root / shop.recipe.busybox.path
    if not program.is_file():
        raise ImageError(f"busybox.path: {archive.name} has no {shop.recipe.busybox.path}")
    shop.record("busybox", archive, program.stat().st_size)
    return program


def fetch_programs(shop: Workshop) -> Tree:
    """Return the files and links of the recipe's programs."""
    recipe = shop.recipe.programs
    layer: Tree = {}
    for archive, root in shop.fetch_unpacked(recipe.packages) if recipe.packages else ():
        taken = program_files(read_tree(root), recipe)
        if not taken:
            raise ImageError(
                f"programs.keep: takes nothing of {archive.name}: keep some of it or drop the package"
            )
        shop.record("programs", archive, size_of(taken))
        layer |= taken
    for path, target in recipe.links.items():
        if f"{path.rpartition('/')[0]}/{target}" not in layer:
            raise ImageError(f'programs.links."{path}": there is no {target} beside it')
        layer[path] = link(target)
    return layer


def pack(shop: Workshop, name: str, tree: Tree) -> tuple[Layer, Path]:
    """Return a packed layer and its archive."""
    level = shop.recipe.image.compression
    key = key_of(name, digest_of(tree), level, shop.zstd, shop.inputs.builder)
    folder = shop.cache.result("layers", key, lambda made: pack_layer(name, tree, level, made))
    return read_layer(folder), folder / ARCHIVE


def write_image(
    shop: Workshop,
    output: Path,
    release: str,
    contents: dict[str, list[Path]],
    layers: list[tuple[Layer, Path]],
    stage: tuple[Layer, Path] | None,
    roots: dict[str, tuple[RootImage, Path]],
) -> dict[str, Any]:
    """Write the files, each the concatenation of its pieces (the agent's archive is there already); the manifest."""
    for name, pieces in contents.items():
        with (output / f".{name}.new").open("wb") as file:
            for piece in pieces:
                with piece.open("rb") as source:
                    shutil.copyfileobj(source, file, COPY_BYTES)
    names = (*contents, AGENT_ARCHIVE)
    (output / "manifest.json").unlink(missing_ok=True)
    for name in names:
        (output / f".{name}.new").rename(output / name)
    document = make_manifest(
        key=shop.inputs.key,
        release=release,
        suite=shop.recipe.image.suite,
        tools={"zstd": shop.zstd},
        parts=shop.parts,
        layers=[layer for layer, _ in layers],
        outputs={name: output / name for name in names},
        stage=stage[0] if stage else None,
        roots={name: image for name, (image, _) in roots.items()},
    )
    (output / ".manifest.json.new").write_text(json.dumps(document, indent=1) + "\n")
    (output / ".manifest.json.new").rename(output / "manifest.json")
    return document
