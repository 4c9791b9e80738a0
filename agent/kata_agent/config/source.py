"""Where settings come from, and which source wins: the kernel command line, files, the environment.

Owns the precedence of Kata's agent 3.21: `--config FILE`, then the environment; else `agent.config_file=` of the kernel
command line, alone; else that command line, then the environment. Must not know: TOML (`files`, imported where there is
one). Later words win; unknown words are ignored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kata_agent.config.table import SETTINGS, Config
from kata_agent.config.value import AllowList
from kata_linux.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kata_agent.config.setting import Setting

CONFIG_FILE = "agent.config_file"
KERNEL = "kernel command line"
# What a host may still do when the settings file cannot be read: look, and end the guest.
STILL_ALLOWED = frozenset({"DestroySandbox", "GetGuestDetails", "GetBoot", "Events", "PollEvents"})


class SettingsFileError(ValueError):
    """A settings file that cannot be used at all; the text has the file, the line and the key."""


class Reading(Record):
    """Settings; what could not be read; each setting's source where it is not the default; names nobody knows."""

    config: Config
    complaints: tuple[str, ...] = ()
    origins: Mapping[str, str] = {}
    unknown: tuple[str, ...] = ()


class Found:
    """Values as they are found, source after source."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.origins: dict[str, str] = {}
        self.complaints: list[str] = []

    def accept(
        self,
        row: Setting[Any],
        name: str,
        given: Any,
        origin: str,
        parse: Callable[[Any], Any] | None = None,
    ) -> None:
        """Parse a value and keep it, or complain under `name`."""
        try:
            value = (parse or row.parse)(given)
        except ValueError as error:
            kept = self.values.get(row.field, row.default)
            wrong = f"{given!r} is {error}" if given else "empty"
            self.complaints.append(f"{name}: {wrong}, {kept!r} kept")
            return
        if row.unset is None or value != row.unset:
            self.values[row.field] = value
            self.origins[row.field] = origin

    def read(self, unknown: tuple[str, ...] = ()) -> Reading:
        """All of it."""
        return Reading(Config(**self.values), tuple(self.complaints), self.origins, unknown)


def read_settings(
    path: str | None, cmdline: str, environment: Mapping[str, str], *, lines: bool = False
) -> Reading:
    """The settings in force. `path` is the file of `--config`, which nothing of the command line is read beside.

    Raises `SettingsFileError` for that file; one that the command line names leaves next to nothing allowed instead,
    because a guest without its settings must not do what they forbid. `lines`: origins in files have their line.
    """
    if path is not None:
        from kata_agent.config import files

        return apply_environment(files.read_files(path, lines=lines), environment)
    named = find_config_file(cmdline)
    if named is None:
        return apply_environment(parse_cmdline(cmdline), environment)
    from kata_agent.config import files

    try:
        return files.read_files(named, lines=lines)
    except SettingsFileError as error:
        endpoints = AllowList(STILL_ALLOWED, f"settings: {error}")
        return Reading(
            Config(endpoints=endpoints), (str(error),), {"endpoints": "a file that cannot be read"}
        )


def find_config_file(cmdline: str) -> str | None:
    """The first file that the kernel command line names; an empty name is none."""
    for word in split_words(cmdline):
        name, _, value = word.partition("=")
        if name == CONFIG_FILE and value:
            return value
    return None


def parse_cmdline(cmdline: str) -> Reading:
    """Settings from the text of `/proc/cmdline`.

    What counts behind another word alone counts before it, too: runtime-rs writes those words in any order.
    """
    rows = {row.word: row for row in SETTINGS if row.word}
    found = Found()
    unknown = []
    words = [(rows.get(word.partition("=")[0]), word) for word in split_words(cmdline)]
    for row, word in sorted(words, key=lambda pair: pair[0] is not None and bool(pair[0].under)):
        name, separator, text = word.partition("=")
        if row is None or (separator and row.flag == "only") or (not separator and not row.flag):
            unknown.append(word)
        elif not row.under or found.values.get(row.under):
            found.accept(row, name, text if separator else "true", KERNEL)
    return found.read(tuple(word for word in unknown if word.startswith("agent.")))


def apply_environment(reading: Reading, environment: Mapping[str, str]) -> Reading:
    """What the environment says wins. A value that does not parse is ignored there, as in Kata's agent, and told."""
    found = Found()
    found.values |= reading.config.values
    found.origins |= reading.origins
    found.complaints += reading.complaints
    for row in SETTINGS:
        if row.env in environment and row.env:
            found.accept(row, row.env, environment[row.env], f"environment {row.env}", row.env_parse)
    return found.read(reading.unknown)


def split_words(cmdline: str) -> list[str]:
    """Words between ASCII white space; the kernel's line may hold any byte."""
    raw = cmdline.encode("utf-8", "surrogateescape").split()
    return [word.decode("utf-8", "surrogateescape") for word in raw]
