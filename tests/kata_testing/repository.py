"""Where things are in the checkout that is being tested. Knows paths, nothing about what is in them."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
GUEST = BUILD / "guest"
VENV_BIN = ROOT / ".venv" / "bin"

GUEST_FILES = (GUEST / "vmlinuz", GUEST / "initrd.img", GUEST / "manifest.json")
