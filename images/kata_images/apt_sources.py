"""Which Debian mirror this machine uses, read from apt's own source lists (pure: text in, sources out).

Both formats of sources.list(5) are read: the one-line style and deb822. The builder takes the first enabled source
that has a plain Debian suite and the component main, so that a local mirror serves the guest's packages too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kata_images.errors import ImageError

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
SUITES = frozenset(
    "stable oldstable testing unstable sid bullseye bookworm trixie forky duke".split()  # noqa: SIM905 - reads better
)


@dataclass(frozen=True)
class Source:
    """One (URI, suite) pair with its components; `signed_by` is a path or empty."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str = ""


def parse_one_line(text: str) -> Iterator[Source]:
    """Yield the `deb` lines of a sources.list."""
    for line in text.splitlines():
        found = re.fullmatch(r"\s*deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s*([^#]*)(?:#.*)?", line)
        if found is None:
            continue
        options = dict(option.partition("=")[::2] for option in (found[1] or "").split())
        yield Source(found[2], found[3], tuple(found[4].split()), options.get("signed-by", ""))


def parse_deb822(text: str) -> Iterator[Source]:
    """Yield the enabled `Types: deb` stanzas of a .sources file, one for each URI and suite."""
    for stanza in re.split(r"\n\s*\n", text):
        fields = _fields(stanza)
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() == "no":
            continue
        signed_by = fields.get("signed-by", "")
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                components = tuple(fields.get("components", "").split())
                yield Source(uri, suite, components, signed_by if signed_by.startswith("/") else "")


def _fields(stanza: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    name = ""
    for line in stanza.splitlines():
        if line.startswith("#"):
            continue
        if line[:1] in (" ", "\t") and name:
            fields[name] += " " + line.strip()
        elif ":" in line:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()
    return fields


def read_sources(etc_apt: Path = Path("/etc/apt")) -> list[Source]:
    """Read every source of the machine in apt's order: sources.list, then sources.list.d by name."""
    sources: list[Source] = []
    main = etc_apt / "sources.list"
    parts = etc_apt / "sources.list.d"
    files = [main] if main.is_file() else []
    files += sorted(parts.iterdir()) if parts.is_dir() else []
    for file in files:
        if file.suffix == ".list":
            sources += parse_one_line(file.read_text())
        elif file.suffix == ".sources":
            sources += parse_deb822(file.read_text())
    return sources


def choose_debian(sources: list[Source]) -> Source:
    """Return the first plain Debian source; a security or update suite is not one."""
    for source in sources:
        if source.suite in SUITES and "main" in source.components and "debian" in source.uri:
            return source
    raise ImageError("no Debian mirror among apt's sources; name one with --mirror URL")


def mirror_of_machine(etc_apt: Path = Path("/etc/apt")) -> Source:
    """Return this machine's Debian mirror, with the keyring that verifies it."""
    chosen = choose_debian(read_sources(etc_apt))
    return Source(chosen.uri.rstrip("/"), chosen.suite, chosen.components, chosen.signed_by or KEYRING)
