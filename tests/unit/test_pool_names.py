"""A pool's name: its folder's is one of a machine's, and who finds it taken is told of the pool."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from pathlib import Path

import pytest

from kata_host.cli.commands.vm_pool import LONGEST_NAME, run_pool
from kata_host.cli.copies import POOL_PREFIX
from kata_host.cli.errors import CliError
from kata_host.templates.store import TemplateStore
from kata_host.vm.state import StateError, open_state


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Namespace:
    monkeypatch.setenv("KATA_VM_DIR", str(tmp_path / "vms"))
    return Namespace(template="one", name=None, size=1, timeout=1.0, template_dir=str(tmp_path / "templates"))


def test_a_pool_that_runs_already_is_told_of_as_a_pool(options: Namespace) -> None:
    with TemplateStore(Path(options.template_dir)).draft("one") as draft:
        (draft.folder / "memory").write_text("memory")
        draft.publish({}, {})
    with open_state(f"{POOL_PREFIX}one"), pytest.raises(StateError) as caught:
        asyncio.run(run_pool(options))
    assert str(caught.value) == (
        "a pool named 'one' runs already; end that one with Ctrl-C, or give this one another --name"
    )


def test_a_template_whose_name_is_too_long_for_a_pool_s_is_told_what_to_do(options: Namespace) -> None:
    options.template = "a" * (LONGEST_NAME + 1)
    with pytest.raises(
        CliError, match=r"a pool's name is up to 27 letters; give it a shorter one with --name"
    ):
        asyncio.run(run_pool(options))
