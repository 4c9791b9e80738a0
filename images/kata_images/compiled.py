"""The step that compiles: crun, and the libraries that are not taken as their wheels are. Its result is one folder:
`crun`, `site/` with the libraries' packages, `downloads.json` with what pip brought.

The build root and the downloads are thrown away; only a change of what goes in makes them again.
"""

from __future__ import annotations

import json
from pathlib import Path

from kata_images import native
from kata_images.apt import Archive
from kata_images.buildroot import unpack_root
from kata_images.cache import key_of
from kata_images.errors import ImageError
from kata_images.wheels import download, find_file, unpack_wheel
from kata_images.workshop import Workshop


def make_compiled(shop: Workshop) -> Path:
    """Return the result's folder."""
    recipe = shop.recipe
    for name in recipe.libraries.native:
        if name != "protobuf":
            raise ImageError(f"libraries.native: {name}: only protobuf can be built here")
    crun = shop.apt.resolve_source(recipe.crun.source)
    packages = shop.apt.resolve(recipe.buildroot.packages, dependencies=True)
    digests = [archive.sha256 for archive in (crun, *packages)]
    locked = [item.line for item in shop.inputs.requirements]
    scripts = (native.FLAGS, native.CRUN, native.UPB, native.STRIP)
    key = key_of(digests, recipe.crun, recipe.libraries.native, shop.python, locked, scripts)
    if not shop.cache.has("compiled", key):
        with shop.cache.temporary("buildroot") as root, shop.cache.temporary("wheels") as wheels:
            with shop.progress.step(f"build root, {len(packages)} packages"):
                files = shop.apt.fetch(packages)
                unpack_root(files.values(), root)
            with shop.progress.step(f"downloading {len(locked)} Python libraries"):
                requirements = shop.inputs.requirements
                download(
                    requirements,
                    wheels,
                    native=recipe.libraries.native,
                    python=shop.python,
                    tell=shop.progress.note,
                )
            shop.cache.result("compiled", key, lambda folder: _compile(shop, root, crun, wheels, folder))
    result = shop.cache.folder / "compiled" / key
    shop.record("crun", crun, (result / "crun").stat().st_size)
    return result


def _compile(shop: Workshop, root: Path, crun: Archive, wheels: Path, folder: Path) -> None:
    with shop.progress.step(f"compiling crun {crun.version}"):
        tarball = shop.apt.fetch([crun])[crun.sha256]
        arguments = shop.recipe.crun.configure
        program = folder / "crun"
        native.build_crun(root, tarball, program, version=crun.version, jobs=shop.jobs, configure=arguments)
    site = folder / "site"
    site.mkdir()
    sizes = {}
    for item in shop.inputs.requirements:
        path = find_file(wheels, item)
        sizes[item.name] = path.stat().st_size
        if item.name not in shop.recipe.libraries.native:
            unpack_wheel(path, site)
    (folder / "downloads.json").write_text(json.dumps(sizes))
    native.strip_libraries(root, site)
    for name in shop.recipe.libraries.native:
        item = shop.inputs.requirement(name)
        with shop.progress.step(f"compiling {name} {item.version}"):
            suffix = f"cpython-{shop.python.replace('.', '')}-x86_64-linux-gnu"
            native.build_protobuf(root, find_file(wheels, item), site, jobs=shop.jobs, suffix=suffix)
