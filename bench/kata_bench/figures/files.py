"""Sizes of what the image build made, from its manifest."""

from __future__ import annotations

from kata_bench.native import ROOT
from kata_bench.result import Effort, Result

GUEST = ROOT / "build" / "guest"


def measure_files(_: Effort) -> list[Result]:
    """`initrd` in MB."""
    return [Result("initrd", (GUEST / "initrd.img").stat().st_size / 1e6)]
