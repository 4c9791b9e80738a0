"""The recipe: every error names file and key; the project's own recipe is read as it is meant."""

from __future__ import annotations

import copy
import tomllib
from pathlib import Path
from typing import Any

import pytest

from kata_images.errors import ImageError
from kata_images.recipe import ExtraFile, parse_recipe, read_recipe
from kata_testing.repository import ROOT

DEFAULT = ROOT / "images" / "recipes" / "default.toml"


@pytest.fixture
def document() -> dict[str, Any]:
    return copy.deepcopy(tomllib.loads(DEFAULT.read_text()))


def test_the_projects_recipe_is_read() -> None:
    recipe = read_recipe(DEFAULT)
    assert recipe.image.suite == "trixie"
    assert recipe.kernel.boot == ("vmw_vsock_virtio_transport", "virtio_blk", "virtio_net")
    assert "overlay" in recipe.kernel.modules["storage"]
    assert recipe.files["etc/machine-id"] == ExtraFile(text="", source="", mode=0o644)
    assert recipe.folder == DEFAULT.parent


@pytest.mark.parametrize(
    ("table", "key", "value", "text"),
    [
        ("image", "suit", "x", "r.toml: image.suit: unknown key; known: suite, architecture, compression"),
        ("image", "suite", 3, "r.toml: image.suite: must be a string"),
        ("image", "compression", "19", "r.toml: image.compression: must be a whole number"),
        ("image", "compression", True, "r.toml: image.compression: must be a whole number"),
        ("image", "compression", 22, "r.toml: image.compression: must be 1 to 19"),
        ("image", "architecture", "arm64", "r.toml: image.architecture: only amd64 is built"),
        ("kernel", "boot", "vsock", "r.toml: kernel.boot: must be a list of strings"),
        ("kernel", "modules", {"a": [1]}, "r.toml: kernel.modules.a: must be a list of strings"),
        ("python", "sources", 1, "r.toml: python.sources: must be true or false"),
        ("files", "/etc/x", {"text": ""}, 'r.toml: files."/etc/x": must be a path below the guest\'s root'),
        ("files", "a/../../x", {"text": ""}, 'r.toml: files."a/../../x": must be a path below'),
        ("files", "x", {"text": "a", "source": "b"}, 'r.toml: files."x": has both text and source'),
        ("files", "x", {"mod": 1}, "r.toml: files.x.mod: unknown key; known: text, source, mode"),
    ],
)
def test_a_bad_value_is_named(
    document: dict[str, Any], table: str, key: str, value: object, text: str
) -> None:
    document[table][key] = value
    with pytest.raises(ImageError) as caught:
        parse_recipe(document, "r.toml", Path())
    assert str(caught.value).startswith(text)


def test_a_missing_key_is_named(document: dict[str, Any]) -> None:
    del document["kernel"]["package"]
    with pytest.raises(ImageError, match=r"^r\.toml: kernel\.package: missing$"):
        parse_recipe(document, "r.toml", Path())


def test_an_unknown_table_is_named(document: dict[str, Any]) -> None:
    document["kernal"] = {}
    with pytest.raises(ImageError, match=r"^r\.toml: kernal: unknown key"):
        parse_recipe(document, "r.toml", Path())


def test_a_table_that_is_no_table_is_named(document: dict[str, Any]) -> None:
    document["crun"] = "crun"
    with pytest.raises(ImageError, match=r"^r\.toml: crun: must be a table$"):
        parse_recipe(document, "r.toml", Path())


def test_what_is_no_toml_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "broken.toml"
    file.write_text("[image\n")
    with pytest.raises(ImageError, match=r"broken\.toml: .*line 1"):
        read_recipe(file)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"none\.toml: no such recipe"):
        read_recipe(tmp_path / "none.toml")
