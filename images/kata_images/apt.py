"""Debian packages without dpkg: a private apt state resolves and downloads, `dpkg-deb -x` unpacks.

The machine's own apt is read for its mirror, proxy and keyring and never written: lists, cache and status live in the
builder's folder. Every answer of the resolver is kept as JSON, so that a later build asks nobody; every file is kept
under its SHA-256, which apt has checked against the signed index.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from urllib.parse import unquote

from kata_images.command import run
from kata_images.errors import ImageError
from kata_images.network import persist

ARCHITECTURE = "amd64"
APT_DEADLINE_S = 900.0
HELPER = "/usr/lib/apt/apt-helper"
# Settings that docker images and desktops have: hooks that remove the machine's archives, metadata of no use here.
FORGET = (
    "APT::Update::Post-Invoke",
    "APT::Update::Post-Invoke-Success",
    "DPkg::Post-Invoke",
    "Acquire::IndexTargets::deb::DEP-11",
    "Acquire::IndexTargets::deb::DEP-11-icons",
    "Acquire::IndexTargets::deb::DEP-11-icons-small",
    "Acquire::IndexTargets::deb::DEP-11-icons-large",
)


class OutdatedError(ImageError):
    """What was resolved cannot be fetched: the mirror must be asked again (`refresh`)."""


@dataclass(frozen=True)
class Archive:
    """A file of the mirror: a binary package or a source tarball. `pool` is its path below the mirror."""

    name: str
    version: str
    pool: str
    uri: str
    sha256: str
    size: int


def parse_uris(text: str) -> list[Archive]:
    """Parse what `apt-get --print-uris` prints; lines of another form are apt's remarks."""
    archives = []
    for line in text.splitlines():
        found = re.fullmatch(r"'(\S+)' (\S+) (\d+) SHA256:([0-9a-f]{64})\s*", line)
        if found is None:
            continue
        uri, filename, size, digest = found.groups()
        stem, _, rest = unquote(filename).partition("_")
        version = rest.rpartition("_")[0] if rest.endswith(".deb") else rest.partition(".orig")[0]
        pool = "pool/" + unquote(uri).partition("/pool/")[2]
        archives.append(Archive(stem, version, pool, uri, digest, int(size)))
    return archives


class Apt:
    """A private apt for one suite of one mirror."""

    def __init__(
        self,
        folder: Path,
        *,
        mirror: str,
        keyring: str,
        suite: str,
        offline: bool,
        refresh: bool,
        tell: Callable[[str], None],
    ) -> None:
        """`tell` hears of what failed and is tried again."""
        digest = sha256(f"{mirror} {suite}".encode()).hexdigest()[:16]
        self.suite, self._mirror, self._keyring = suite, mirror, keyring
        self._offline = offline
        self._tell = tell
        self._state = folder / "apt" / f"{suite}-{digest}"
        self._archives = folder / "archives"
        self._updated = False
        if refresh:
            self.forget()

    def update(self) -> None:
        """Fetch the suite's signed indexes, once for this object."""
        if self._updated:
            return
        if self._offline:
            raise ImageError(
                f"debian {self.suite}: nothing resolved yet for this recipe; build once without --offline"
            )
        self._configure()
        argv = ["apt-get", "update", "-o", "APT::Update::Error-Mode=any"]
        persist(f"apt-get update for {self.suite}", lambda: self._apt(argv), self._tell)
        self._updated = True

    def resolve(self, names: Sequence[str], *, dependencies: bool) -> list[Archive]:
        """Return the packages by these names, with everything they depend on if asked for."""
        verb = ["install", "-y", "--no-install-recommends"] if dependencies else ["download"]
        return self._resolve(verb, names)

    def resolve_source(self, name: str) -> Archive:
        """Return the upstream tarball of a source package."""
        for archive in self._resolve(["source", "--download-only"], [name]):
            if re.search(r"\.orig\.tar\.\w+$", archive.pool):
                return archive
        raise ImageError(f"debian {self.suite}: source package {name} has no upstream tarball")

    def depends_on(self, name: str, prefix: str) -> str:
        """Return the first dependency of a package whose name begins so: what a metapackage stands for."""

        def ask() -> object:
            try:
                text = self._apt(["apt-cache", "show", "--no-all-versions", name]).decode()
            except ImageError as error:
                raise ImageError(f"debian {self.suite}: {name}: {error}") from error
            line = next((line for line in text.splitlines() if line.startswith("Depends:")), "")
            names = [part.split()[0] for part in re.split(r"[,|]", line[len("Depends:") :]) if part.split()]
            return next((found for found in names if found.startswith(prefix)), name)

        return str(self._remember(f"depends {name} {prefix}", ask))

    def fetch(self, archives: Collection[Archive]) -> dict[str, Path]:
        """Download what is not here yet and return the files by SHA-256."""
        found = {archive.sha256: self._archives / archive.sha256 for archive in archives}
        missing = {a.sha256: a for a in archives if not found[a.sha256].exists()}
        if missing and self._offline:
            names = ", ".join(archive.name for archive in missing.values())
            raise ImageError(f"not downloaded yet: {names}; build once without --offline")
        if missing:
            self._configure()
            self._archives.mkdir(parents=True, exist_ok=True)
            try:
                if self._updated:  # what the lists name should be there
                    what = f"downloading {len(missing)} packages"
                    persist(what, lambda: self._download(missing), self._tell)
                else:
                    self._download(missing)
            except ImageError as error:
                raise OutdatedError(
                    f"debian {self.suite}: the mirror does not have what was resolved ({error})"
                ) from error
        return found

    def _download(self, wanted: Mapping[str, Archive]) -> None:
        """Fetch what is not here yet. When one file cannot be had, those that came whole stay for the next attempt."""
        left = [digest for digest in wanted if not (self._archives / digest).exists()]
        parts = {digest: self._archives / f"{digest}.part" for digest in left}
        arguments: list[str] = []
        for digest, part in parts.items():
            arguments += [wanted[digest].uri, str(part), f"SHA256:{digest}"]
        try:
            self._apt([HELPER, "download-file", *arguments])
        except BaseException:
            parts = {digest: part for digest, part in parts.items() if _has_digest(part, digest)}
            raise
        finally:
            for digest, part in parts.items():
                part.rename(self._archives / digest)

    def _resolve(self, verb: Sequence[str], names: Sequence[str]) -> list[Archive]:
        def ask() -> object:
            printed = self._apt(["apt-get", *verb, "--print-uris", *names]).decode()
            return [asdict(archive) for archive in parse_uris(printed)]

        answer = self._remember(" ".join([*verb, *sorted(names)]), ask)
        archives = [Archive(**row) for row in answer] if isinstance(answer, list) else []
        if not archives:
            raise ImageError(f"debian {self.suite}: nothing found for {' '.join(names)}")
        return sorted(archives, key=lambda archive: archive.name)

    def _remember(self, question: str, ask: Callable[[], object]) -> object:
        file = self._state / "answers" / f"{sha256(question.encode()).hexdigest()[:16]}.json"
        if file.exists():
            return json.loads(file.read_text())["answer"]
        self.update()
        answer = ask()
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh = file.with_suffix(".new")
        fresh.write_text(json.dumps({"question": question, "answer": answer}, indent=1))
        fresh.rename(file)
        return answer

    def forget(self) -> None:
        """Drop every remembered answer: the mirror no longer has what they name."""
        shutil.rmtree(self._state / "answers", ignore_errors=True)

    def _configure(self) -> None:
        for name in ("lists/partial", "cache/archives/partial", "etc"):
            (self._state / name).mkdir(parents=True, exist_ok=True)
        (self._state / "status").touch()
        signed = f"[signed-by={self._keyring}] " if Path(self._keyring).exists() else ""
        lines = [f"{kind} {signed}{self._mirror} {self.suite} main\n" for kind in ("deb", "deb-src")]
        (self._state / "sources.list").write_text("".join(lines))
        settings = {
            "Dir::State": self._state,
            "Dir::State::lists": self._state / "lists",
            "Dir::State::status": self._state / "status",
            "Dir::Cache": self._state / "cache",
            "Dir::Etc::sourcelist": self._state / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "APT::Architecture": ARCHITECTURE,
            "APT::Architectures::": ARCHITECTURE,
            "APT::Sandbox::User": "root",
            "Acquire::ForceHash": "sha256",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
        }
        text = "".join(f"#clear {name};\n" for name in (*FORGET, "APT::Architectures"))
        text += "".join(f'{name} "{value}";\n' for name, value in settings.items())
        (self._state / "apt.conf").write_text(text)

    def _apt(self, argv: Sequence[str]) -> bytes:
        return run([argv[0], "-c", str(self._state / "apt.conf"), *argv[1:]], deadline_s=APT_DEADLINE_S)


def _has_digest(path: Path, digest: str) -> bool:
    return path.exists() and sha256(path.read_bytes()).hexdigest() == digest


def unpack(deb: Path, folder: Path) -> None:
    """Unpack a binary package's files; no script of it runs."""
    folder.mkdir(parents=True, exist_ok=True)
    run(["dpkg-deb", "-x", str(deb), str(folder)], deadline_s=120)
