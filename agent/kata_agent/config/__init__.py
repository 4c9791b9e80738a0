"""The agent's settings: what they are (`table`), and where they come from (`source`, `files`).

Follows: Kata's agent 3.21, section "Configuration". A value that does not parse is reported and the default kept
(Kata's agent ends the guest); a settings file that cannot be read at all leaves next to nothing allowed. Decision 0110.
"""

from __future__ import annotations

from kata_agent.config.source import (
    Reading,
    SettingsFileError,
    apply_environment,
    parse_cmdline,
    read_settings,
)
from kata_agent.config.table import SETTINGS, Config

__all__ = [
    "SETTINGS",
    "Config",
    "Reading",
    "SettingsFileError",
    "apply_environment",
    "parse_cmdline",
    "read_settings",
]
