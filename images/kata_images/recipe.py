"""The recipe: what a person may change about the image, read from TOML into frozen values (pure).

Errors name the file and the key. Every key is declared by the dataclasses below; a key that is none of theirs is an
error, so that a misspelt one is seen. docs/image.md explains them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from kata_images.errors import ImageError

Names = tuple[str, ...]
ROOT_FILESYSTEMS = ("erofs", "ext4")


@dataclass(frozen=True)
class Image:
    """Suite, architecture and zstd level."""

    suite: str
    architecture: str = "amd64"
    compression: int = 19


@dataclass(frozen=True)
class Kernel:
    """The kernel package, the modules loaded at boot, and those that modprobe may load, by group."""

    package: str
    boot: Names = ()
    modules: Mapping[str, Names] = field(default_factory=dict)


@dataclass(frozen=True)
class Python:
    """Packages of the interpreter and which of their files to take."""

    packages: Names
    interpreter: str
    keep: Names
    drop: Names = ()
    sources: bool = False


@dataclass(frozen=True)
class Libraries:
    """Locked requirements and which of them are built here."""

    requirements: str
    native: Names = ()
    drop: Names = ()


@dataclass(frozen=True)
class Agent:
    """Our own import packages."""

    packages: Names
    drop: Names = ()


@dataclass(frozen=True)
class Crun:
    """Debian's source package and arguments of its configure."""

    source: str = "crun"
    configure: Names = ()


@dataclass(frozen=True)
class Busybox:
    """The package, where its program is, and the applets that get a name."""

    package: str
    path: str
    applets: Names = ()


@dataclass(frozen=True)
class Programs:
    """Packages of programs, which of their files to take, and links (path to target) that Debian makes at install."""

    packages: Names = ()
    keep: Names = ()
    drop: Names = ()
    links: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Policy:
    """Packages of the root in which the policy engine is compiled, with what they depend on; none: no engine."""

    packages: Names = ()


@dataclass(frozen=True)
class Root:
    """The guest on a disk: which file systems, packages of their tools, and the modules that reach each kind of disk.

    `modules` has the groups `disk`, `pmem`, `verity` and those named like file systems; what is built in may be named.
    """

    filesystems: Names = ()
    packages: Names = ()
    modules: Mapping[str, Names] = field(default_factory=dict)


@dataclass(frozen=True)
class BuildRoot:
    """Packages of the root in which C is compiled, with what they depend on."""

    packages: Names


@dataclass(frozen=True)
class ExtraFile:
    """A file of the person's own: its text, or a file beside the recipe."""

    text: str = ""
    source: str = ""
    mode: int = 0o644


@dataclass(frozen=True)
class Recipe:
    """One whole recipe; `folder` is where its relative names start."""

    image: Image
    kernel: Kernel
    python: Python
    libraries: Libraries
    agent: Agent
    crun: Crun
    busybox: Busybox
    buildroot: BuildRoot
    programs: Programs = field(default_factory=Programs)
    policy: Policy = field(default_factory=Policy)
    root: Root = field(default_factory=Root)
    files: Mapping[str, ExtraFile] = field(default_factory=dict)
    folder: Path = Path()


def read_recipe(path: Path) -> Recipe:
    """Read a recipe file."""
    try:
        document = tomllib.loads(path.read_text())
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such recipe") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ImageError(f"{path}: {error}") from error
    return parse_recipe(document, str(path), path.parent)


def parse_recipe(document: dict[str, Any], origin: str, folder: Path) -> Recipe:
    """Turn a TOML document into a recipe; `origin` stands in front of every error."""
    if "folder" in document:
        raise ImageError(f"{origin}: folder: unknown key")
    recipe: Recipe = _parse(Recipe, document | {"folder": folder}, origin, "")
    for name, extra in recipe.files.items():
        if name.startswith("/") or ".." in Path(name).parts:
            raise ImageError(
                f'{origin}: files."{name}": must be a path below the guest\'s root, without a leading /'
            )
        if extra.source and extra.text:
            raise ImageError(f'{origin}: files."{name}": has both text and source; keep one')
    if recipe.image.architecture != "amd64":
        raise ImageError(f"{origin}: image.architecture: only amd64 is built")
    for name in recipe.root.filesystems:
        if name not in ROOT_FILESYSTEMS:
            raise ImageError(
                f"{origin}: root.filesystems: {name}: only {' and '.join(ROOT_FILESYSTEMS)} can be made"
            )
    if not 1 <= recipe.image.compression <= 19:
        raise ImageError(f"{origin}: image.compression: must be 1 to 19")
    return recipe


def _parse(kind: Any, value: object, origin: str, key: str) -> Any:
    if kind == Names:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ImageError(f"{origin}: {key}: must be a list of strings")
        return tuple(value)
    if get_origin(kind) is not None and isinstance(value, dict):
        item = get_args(kind)[1]
        return {name: _parse(item, entry, origin, f"{key}.{name}") for name, entry in value.items()}
    if hasattr(kind, "__dataclass_fields__") and isinstance(value, dict):
        return _parse_table(kind, value, origin, key)
    if type(value) is kind or (kind is Path and isinstance(value, Path)):
        return value
    words = {str: "a string", int: "a whole number", bool: "true or false"}
    raise ImageError(f"{origin}: {key}: must be {words.get(kind, 'a table')}")


def _parse_table(kind: Any, table: dict[str, object], origin: str, key: str) -> Any:
    prefix = f"{key}." if key else ""
    hints = get_type_hints(kind)
    for name in table:
        if name not in hints:
            raise ImageError(f"{origin}: {prefix}{name}: unknown key; known: {', '.join(hints)}")
    for item in fields(kind):
        if item.name not in table and item.default is MISSING and item.default_factory is MISSING:
            raise ImageError(f"{origin}: {prefix}{item.name}: missing")
    return kind(
        **{name: _parse(hints[name], value, origin, f"{prefix}{name}") for name, value in table.items()}
    )
