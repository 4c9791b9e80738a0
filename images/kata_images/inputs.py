"""What an image is made from, as one key: the recipe, the locked libraries, our sources, the builder itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

from kata_images.cache import key_of
from kata_images.cpio import Tree, read_tree
from kata_images.errors import ImageError
from kata_images.layers import select
from kata_images.recipe import Recipe
from kata_images.wheels import Requirement, parse_requirements


@dataclass(frozen=True)
class Inputs:
    """A recipe with everything it names that is on this machine."""

    recipe: Recipe
    requirements: tuple[Requirement, ...]
    sources: Tree
    engine: Tree
    builder: str
    key: str

    def requirement(self, name: str) -> Requirement:
        """Return a locked library by name."""
        for item in self.requirements:
            if item.name == name:
                return item
        raise ImageError(f"libraries.native: {name}: not in {self.recipe.libraries.requirements}")


def read_package(name: str, drop: Iterable[str]) -> Tree:
    """Return one of our import packages, without importing it: every file but byte code and what `drop` names."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ImageError(f"agent.packages: {name}: not installed beside kata_images")
    tree = read_tree(Path(spec.submodule_search_locations[0]))
    chosen = select(tree, ["**/*.py"], ["**/__pycache__/**"])
    # Read now: a file that is edited while the image is built must not differ from what the key says.
    named = {f"{name}/{path}": replace(entry, data=entry.read()) for path, entry in chosen.items()}
    return select(named, ["**"], drop)


def read_crate() -> Tree:
    """Return the policy engine's crate, which lies inside its import package."""
    spec = find_spec("kata_policy")
    if spec is None or not spec.submodule_search_locations:
        raise ImageError("policy.packages: kata_policy: not installed beside kata_images")
    tree = read_tree(Path(spec.submodule_search_locations[0]) / "crate")
    chosen = select(tree, ["Cargo.toml", "Cargo.lock", "pyproject.toml", "src/**"], [])
    return {path: replace(entry, data=entry.read()) for path, entry in chosen.items()}


def digest_of(tree: Tree) -> str:
    """Return a digest of paths, modes and contents."""
    digest = sha256()
    for path, entry in sorted(tree.items()):
        digest.update(f"{path}\0{entry.mode:o}\0{entry.size}\0".encode() + entry.read())
    return digest.hexdigest()


def read_inputs(recipe: Recipe, *, environment: object) -> Inputs:
    """Gather the inputs; `environment` is what else decides bytes (program versions, mirror, suite)."""
    listing = recipe.folder / recipe.libraries.requirements
    try:
        requirements = tuple(parse_requirements(listing.read_text(), str(listing)))
    except FileNotFoundError as error:
        raise ImageError(f"libraries.requirements: {listing}: no such file") from error
    sources: Tree = {}
    for name in recipe.agent.packages:
        sources |= read_package(name, recipe.agent.drop)
    engine = read_crate() if recipe.policy.packages else {}
    builder = digest_of(read_package("kata_images", []))
    extra = {name: (recipe.folder / item.source) for name, item in recipe.files.items() if item.source}
    contents = {name: sha256(path.read_bytes()).hexdigest() for name, path in extra.items() if path.is_file()}
    described = str((recipe.image, recipe.kernel, recipe.python, recipe.libraries, recipe.agent, recipe.crun))
    described += str(
        (
            recipe.busybox,
            recipe.programs,
            recipe.buildroot,
            recipe.policy,
            recipe.root,
            sorted(recipe.files.items()),
        )
    )
    locked = [item.line for item in requirements]
    key = key_of(described, locked, digest_of(sources), digest_of(engine), builder, contents, environment)
    return Inputs(recipe, requirements, sources, engine, builder, key)
