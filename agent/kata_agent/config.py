"""The agent's settings: each declared once, with its kernel command line word, parser, default and help.

Owns: reading settings from text. Must not know: files, the environment of the process (callers pass them).
Follows: Kata's agent 3.21, section "Configuration". A value that does not parse is reported and the default
kept (Kata's agent aborts the guest); unknown words are ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

LOG_LEVELS = {
    "fatal": "critical",
    "panic": "critical",
    "critical": "critical",
    "error": "error",
    "warn": "warn",
    "warning": "warn",
    "info": "info",
    "debug": "debug",
    "trace": "trace",
}

DEFAULT_SERVER_ADDRESS = "vsock://-1:1024"


class Config(NamedTuple):
    """The settings in force. Units are in the names."""

    server_address: str = DEFAULT_SERVER_ADDRESS
    log_level: str = "info"
    hotplug_timeout_s: int = 3
    container_pipe_size_bytes: int = 0
    passfd_listener: str = ""
    crun_path: str = ""


class Setting(NamedTuple):
    """One row of the settings table."""

    field: str
    word: str
    key: str
    parse: Callable[[str], Any]
    help: str


class Reading(NamedTuple):
    """Settings and the complaints about what could not be read."""

    config: Config
    complaints: tuple[str, ...]


def parse_address(text: str) -> str:
    """Any text but none: what it means is decided when it is bound."""
    if not text:
        raise ValueError("empty")
    return text


def parse_level(text: str) -> str:
    """A level's name in lower case."""
    if text not in LOG_LEVELS:
        raise ValueError(f"not one of {', '.join(LOG_LEVELS)}")
    return LOG_LEVELS[text]


def parse_unsigned(text: str) -> int:
    """A decimal number; a leading `+` is allowed."""
    if not text.removeprefix("+").isdecimal() or not text.isascii():
        raise ValueError("not a number of zero or more")
    return int(text)


def parse_pipe_size(text: str) -> int:
    """Bytes; at most what 31 bits hold."""
    number = parse_unsigned(text)
    if number >= 1 << 31:
        raise ValueError("too large")
    return number


def parse_listener(text: str) -> str:
    """A vsock port on which any context id may be reached, or a `unix://` address; nothing for 0 and below."""
    if text.startswith("unix://") and len(text) > len("unix://"):
        return text
    if text.startswith("-") and text[1:].isdecimal():
        return ""
    port = parse_unsigned(text)
    return f"vsock://-1:{port}" if port else ""


SETTINGS = (
    Setting("server_address", "agent.server_addr", "server_addr", parse_address, "where to listen"),
    Setting("log_level", "agent.log", "log_level", parse_level, "least severe level to log"),
    Setting(
        "hotplug_timeout_s",
        "agent.hotplug_timeout",
        "hotplug_timeout",
        parse_unsigned,
        "seconds to wait for a hot-plugged device; 0 is ignored",
    ),
    Setting(
        "container_pipe_size_bytes",
        "agent.container_pipe_size",
        "container_pipe_size",
        parse_pipe_size,
        "size of the containers' output pipes; 0 is the kernel's default",
    ),
    Setting(
        "passfd_listener",
        "agent.passfd_listener_port",
        "passfd_listener_port",
        parse_listener,
        "vsock port for the streams' own connections, usually 1027; without one they are refused",
    ),
)

# Zero is what hosts send for "not set".
_ZERO_IS_UNSET = frozenset({"hotplug_timeout_s"})

ENVIRONMENT_ADDRESS = "KATA_AGENT_SERVER_ADDR"
ENVIRONMENT_LEVEL = "KATA_AGENT_LOG_LEVEL"
# As its setting; a `unix://` address where there is no vsock.
ENVIRONMENT_PASSFD = "KATA_AGENT_PASSFD_LISTENER"
# Ours, for machines where the jail is elsewhere than in a guest.
ENVIRONMENT_CRUN = "KATA_AGENT_CRUN"


def parse_cmdline(text: str) -> Reading:
    """Settings from the text of `/proc/cmdline`. Later words win."""
    settings = {setting.word: setting for setting in SETTINGS}
    found: dict[str, Any] = {}
    complaints = []
    for word in text.split():
        name, separator, value = word.partition("=")
        if not separator or name not in settings:
            continue
        problem = _accept(settings[name], name, value, found)
        if problem:
            complaints.append(problem)
    return Reading(Config(**found), tuple(complaints))


def parse_toml(text: str) -> Reading:
    """Settings from a TOML file. Unknown keys are ignored; a wrong type is a complaint.

    Durations are tables `{ secs = 3, nanos = 0 }` as in Kata's files; whole seconds count.
    """
    import tomllib  # only who passes a file pays for it

    document = tomllib.loads(text)
    found: dict[str, Any] = {}
    complaints = []
    for setting in SETTINGS:
        if setting.key not in document:
            continue
        value = document[setting.key]
        if isinstance(value, dict):
            value = value.get("secs")
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            complaints.append(
                f"{setting.key}: a string, a number or a duration table is needed, default kept"
            )
            continue
        problem = _accept(setting, setting.key, str(value), found)
        if problem:
            complaints.append(problem)
    return Reading(Config(**found), tuple(complaints))


def apply_environment(reading: Reading, environment: Mapping[str, str]) -> Reading:
    """The environment wins over both sources: any address, a level that is one, the path of crun."""
    config = reading.config
    complaints = list(reading.complaints)
    if ENVIRONMENT_ADDRESS in environment:
        config = config._replace(server_address=environment[ENVIRONMENT_ADDRESS])
    if environment.get(ENVIRONMENT_CRUN):
        config = config._replace(crun_path=environment[ENVIRONMENT_CRUN])
    for name, field, parse in (
        (ENVIRONMENT_LEVEL, "log_level", parse_level),
        (ENVIRONMENT_PASSFD, "passfd_listener", parse_listener),
    ):
        if name in environment:
            try:
                changed: dict[str, Any] = {field: parse(environment[name])}
                config = config._replace(**changed)
            except ValueError as error:
                complaints.append(f"{name}: {error}, ignored")
    return Reading(config, tuple(complaints))


def _accept(setting: Setting, name: str, value: str, found: dict[str, Any]) -> str:
    """Put a parsed value into `found`, or say what is wrong with it."""
    try:
        parsed = setting.parse(value)
    except ValueError as error:
        kept = Config._field_defaults[setting.field]
        return f"{name}: {value!r} is {error}, {kept!r} kept" if value else f"{name}: empty, {kept!r} kept"
    if parsed == 0 and setting.field in _ZERO_IS_UNSET:
        return ""
    found[setting.field] = parsed
    return ""
