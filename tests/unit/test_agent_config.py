"""Settings: the kernel command line, the TOML file, the environment, and what is said about bad values."""

from __future__ import annotations

import pytest

from kata_agent import config


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        ("", "server_address", "vsock://-1:1024"),
        ("agent.server_addr=unix:///a=b", "server_address", "unix:///a=b"),
        ("agent.log=debug", "log_level", "debug"),
        ("agent.log=panic", "log_level", "critical"),
        ("agent.log=warning", "log_level", "warn"),
        ("agent.logx=debug", "log_level", "info"),
        ("agent.log=debug agent.log=error", "log_level", "error"),
        ("agent.hotplug_timeout=+7", "hotplug_timeout_s", 7),
        ("agent.hotplug_timeout=0", "hotplug_timeout_s", 3),
        ("agent.container_pipe_size=2097152", "container_pipe_size_bytes", 2097152),
        ("agent.container_pipe_size=0", "container_pipe_size_bytes", 0),
        ("agent.container_pip_siz=1", "container_pipe_size_bytes", 0),
        ("quiet\nagent.log=trace\tpanic=1", "log_level", "trace"),
    ],
)
def test_kernel_word_sets_its_field_without_complaint(words: str, field: str, value: object) -> None:
    reading = config.parse_cmdline(words)
    assert getattr(reading.config, field) == value
    assert reading.complaints == ()


@pytest.mark.parametrize(
    ("word", "complaint"),
    [
        ("agent.log=Debug", "agent.log: 'Debug' is not one of"),
        ("agent.log=", "agent.log: empty, 'info' kept"),
        ("agent.server_addr=", "agent.server_addr: empty, 'vsock://-1:1024' kept"),
        ("agent.hotplug_timeout=-1", "agent.hotplug_timeout: '-1' is not a number of zero or more, 3 kept"),
        ("agent.hotplug_timeout=1=2", "agent.hotplug_timeout: '1=2' is not a number"),
        ("agent.hotplug_timeout=٣", "agent.hotplug_timeout: '٣' is not a number"),
        (
            "agent.container_pipe_size=2147483648",
            "agent.container_pipe_size: '2147483648' is too large, 0 kept",
        ),
    ],
)
def test_bad_value_keeps_the_default_and_is_reported(word: str, complaint: str) -> None:
    reading = config.parse_cmdline(word)
    assert reading.config == config.Config()
    assert len(reading.complaints) == 1
    assert reading.complaints[0].startswith(complaint)


def test_environment_wins_and_takes_any_address() -> None:
    reading = config.apply_environment(
        config.parse_cmdline("agent.server_addr=vsock://-1:1 agent.log=error"),
        {"KATA_AGENT_SERVER_ADDR": "foo=bar=baz=", "KATA_AGENT_LOG_LEVEL": "debug", "KATA_AGENT_CRUN": "/x"},
    )
    assert reading.config.server_address == "foo=bar=baz="
    assert reading.config.log_level == "debug"
    assert reading.config.crun_path == "/x"


def test_bad_level_in_the_environment_is_ignored_and_reported() -> None:
    reading = config.apply_environment(
        config.parse_cmdline("agent.log=error"), {"KATA_AGENT_LOG_LEVEL": "loud"}
    )
    assert reading.config.log_level == "error"
    assert "KATA_AGENT_LOG_LEVEL" in reading.complaints[0]


def test_toml_has_kata_s_names_and_duration_tables() -> None:
    text = 'server_addr = "unix:///a"\nlog_level = "warn"\nhotplug_timeout = { secs = 9, nanos = 0 }\nunknown = 1\n'
    reading = config.parse_toml(text)
    assert reading.config._replace(crun_path="") == config.Config("unix:///a", "warn", 9, 0)
    assert reading.complaints == ()


def test_toml_value_of_a_wrong_type_is_reported() -> None:
    reading = config.parse_toml("log_level = true\nserver_addr = [1]\n")
    assert reading.config == config.Config()
    assert [complaint.partition(":")[0] for complaint in reading.complaints] == ["server_addr", "log_level"]


def test_every_setting_has_a_field_and_words_of_its_own() -> None:
    assert {setting.field for setting in config.SETTINGS} <= set(config.Config._fields)
    assert len({setting.word for setting in config.SETTINGS}) == len(config.SETTINGS)
    assert all(setting.help for setting in config.SETTINGS)
