"""The policy engine's part in the image: what goes into it, what does not, and where its wheel goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from kata_images.engine import MODULE, engine_layers, place_wheel
from kata_images.errors import ImageError
from kata_images.inputs import read_crate
from kata_images.recipe import read_recipe
from kata_testing.repository import ROOT

DEFAULT = ROOT / "images" / "recipes" / "default.toml"
WHEEL = "kata_policy_engine-0.1.0-cp311-abi3-linux_x86_64.whl"


def make_result(folder: Path, content: str = "wheel") -> Path:
    folder.mkdir()
    (folder / MODULE).write_text("library")
    (folder / WHEEL).write_text(content)
    return folder


def test_the_guest_has_the_extension_beside_our_packages(tmp_path: Path) -> None:
    layers = engine_layers(make_result(tmp_path / "result"))
    assert {name: list(tree) for name, tree in layers.items()} == {"policy": [f"usr/lib/kata/{MODULE}"]}


def test_without_packages_for_it_there_is_no_engine(tmp_path: Path) -> None:
    assert engine_layers(None) == {}
    place_wheel(None, tmp_path / "policy")
    assert not (tmp_path / "policy").exists()
    text = DEFAULT.read_text()
    table = text.index("[policy]")
    (tmp_path / "recipe.toml").write_text(text[:table] + text[text.index("[files]", table) :])
    assert read_recipe(tmp_path / "recipe.toml").policy.packages == ()
    assert "python3-maturin" in read_recipe(DEFAULT).policy.packages


def test_the_wheel_is_replaced_when_it_is_another(tmp_path: Path) -> None:
    place_wheel(make_result(tmp_path / "one"), tmp_path / "policy")
    place_wheel(make_result(tmp_path / "two", "newer"), tmp_path / "policy")
    assert [path.name for path in (tmp_path / "policy").iterdir()] == [WHEEL]
    assert (tmp_path / "policy" / WHEEL).read_text() == "newer"


def test_a_result_without_a_wheel_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="0 files like"):
        place_wheel(tmp_path / "empty", tmp_path / "policy")


def test_the_crate_is_an_input_with_its_lock_and_names_no_index() -> None:
    crate = read_crate()
    assert set(crate) == {"Cargo.toml", "Cargo.lock", "pyproject.toml", "src/lib.rs"}
    lock = crate["Cargo.lock"].read().decode()
    sources = {line for line in lock.splitlines() if line.startswith("source")}
    assert sources == {'source = "@index@"'}
    assert 'name = "regorus"' in lock
