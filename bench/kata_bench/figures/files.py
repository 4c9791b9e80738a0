"""Sizes of what the image build made, from its manifest."""

from __future__ import annotations

import json

from kata_bench.native import ROOT
from kata_bench.result import Effort, Result

GUEST = ROOT / "build" / "guest"


def measure_files(_: Effort) -> list[Result]:
    """`initrd` and `initrd-python` in MB."""
    manifest = json.loads((GUEST / "manifest.json").read_text())
    layers = {layer["name"]: layer["compressed"] for layer in manifest["layers"]}
    python = sum(layers.get(name, 0) for name in ("python", "libraries", "policy", "agent"))
    return [
        Result("initrd", (GUEST / "initrd.img").stat().st_size / 1e6),
        Result("initrd-python", python / 1e6),
    ]
