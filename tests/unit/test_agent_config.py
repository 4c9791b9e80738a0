"""Settings: the kernel command line, TOML files with drop-ins, the environment, what is said about bad values."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kata_agent import config, main
from kata_agent.config import files, show
from kata_agent.config.source import STILL_ALLOWED
from kata_agent.config.value import AllowList

Write = Callable[..., str]

MEM = "agent.mem_agent_"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file, or a drop-in when it has a name; gives the main file's path."""

    def write(text: str, drop_in: str = "") -> str:
        file = tmp_path / "agent.toml"
        if drop_in:
            (tmp_path / "config.d").mkdir(exist_ok=True)
            (tmp_path / "config.d" / drop_in).write_text(text)
        else:
            file.write_text(text)
        return str(file)

    return write


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        ("", "server_address", "vsock://-1:1024"),
        ("agent.server_addr=unix:///a=b", "server_address", "unix:///a=b"),
        ("agent.server_addr==", "server_address", "="),
        ("agent.log=debug", "log_level", "debug"),
        ("agent.log=panic", "log_level", "critical"),
        ("agent.log=fatal", "log_level", "critical"),
        ("agent.log=warning", "log_level", "warn"),
        ("agent.logx=debug", "log_level", "info"),
        ("agent.log=debug agent.log=error", "log_level", "error"),
        ("agent.hotplug_timeout=+7", "hotplug_timeout_s", 7),
        ("agent.hotplug_timeout=0", "hotplug_timeout_s", 3),
        ("agent.hotplug_timeout=18446744073709551615", "hotplug_timeout_s", (1 << 64) - 1),
        ("agent.cdh_api_timeout=600 agent.cdi_timeout=320", "cdh_api_timeout_s", 600),
        ("agent.image_pull_timeout=0", "image_pull_timeout_s", 1200),
        ("agent.cdi_timeout=320", "cdi_timeout_s", 320),
        ("agent.container_pipe_size=2097152", "container_pipe_size_bytes", 2097152),
        ("agent.container_pipe_size=0", "container_pipe_size_bytes", 0),
        ("agent.container_pip_siz=1", "container_pipe_size_bytes", 0),
        ("agent.passfd_listener_port=1027", "passfd_listener", "vsock://-1:1027"),
        ("agent.passfd_listener_port=-1", "passfd_listener", ""),
        ("agent.passfd_listener_port=5 agent.passfd_listener_port=0", "passfd_listener", "vsock://-1:5"),
        ("agent.devmode", "dev_mode", True),
        ("agent.devmode=true", "dev_mode", False),
        ("agent.devmodex", "dev_mode", False),
        ("agent.secure_storage_integrity=11", "secure_storage_integrity", True),
        ("agent.secure_storage_integrity=true", "secure_storage_integrity", True),
        ("agent.secure_storage_integrity=yes", "secure_storage_integrity", False),
        ("agent.secure_storage_integrity=", "secure_storage_integrity", False),
        ("agent.secure_storage_integrity=1=1", "secure_storage_integrity", False),
        ("systemd.unified_cgroup_hierarchy=a", "unified_cgroup_hierarchy", False),
        ("systemd.unified_cgroup_hierarchy=11", "unified_cgroup_hierarchy", True),
        ("cgroup_no_v1=all", "cgroup_no_v1", "all"),
        ("cgroup_no_v1=1", "cgroup_no_v1", ""),
        ("agent.https_proxy=http://proxy:81", "https_proxy", "http://proxy:81/"),
        ("agent.https_proxy=http://proxy/x", "https_proxy", "http://proxy/x"),
        ("agent.no_proxy=a,b=c", "no_proxy", "a,b=c"),
        ("agent.guest_components_rest_api=attestation", "guest_components_rest_api", "attestation"),
        ("agent.guest_components_procs=none", "guest_components_procs", "none"),
        (f"{MEM}enable=1\n{MEM}memcg_swap=true", "mem_agent_memcg_swap", True),
        (f"{MEM}memcg_swap=true {MEM}enable=1", "mem_agent_memcg_swap", True),
        (f"{MEM}enable=true {MEM}memcg_swappiness_max=255", "mem_agent_memcg_swappiness_max", 255),
        (f"{MEM}enable=true {MEM}compact_sec_max=-1", "mem_agent_compact_sec_max", -1),
        (f"{MEM}enable=false {MEM}compact_order=7", "mem_agent_compact_order", 9),
        ("quiet\nagent.log=trace\tpanic=1", "log_level", "trace"),
        ("agent.no_proxy=\u00a0 x\udcff", "no_proxy", "\u00a0"),
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
        ("agent.log=debug=", "agent.log: 'debug=' is not one of"),
        ("agent.log=", "agent.log: empty, 'info' kept"),
        ("agent.server_addr=", "agent.server_addr: empty, 'vsock://-1:1024' kept"),
        ("agent.hotplug_timeout=-1", "agent.hotplug_timeout: '-1' is not a number of zero or more, 3 kept"),
        ("agent.hotplug_timeout=1=2", "agent.hotplug_timeout: '1=2' is not a number"),
        ("agent.hotplug_timeout=1.5", "agent.hotplug_timeout: '1.5' is not a number"),
        ("agent.hotplug_timeout=٣", "agent.hotplug_timeout: '٣' is not a number"),
        (
            "agent.hotplug_timeout=18446744073709551616",
            "agent.hotplug_timeout: '18446744073709551616' is out of",
        ),
        (
            "agent.container_pipe_size=2147483648",
            "agent.container_pipe_size: '2147483648' is out of range, 0 to",
        ),
        ("agent.container_pipe_size=-1", "agent.container_pipe_size: '-1' is not a number of zero"),
        ("agent.passfd_listener_port=x", "agent.passfd_listener_port: 'x' is not a number, '' kept"),
        ("agent.passfd_listener_port=", "agent.passfd_listener_port: empty, '' kept"),
        ("agent.https_proxy=proxy", "agent.https_proxy: 'proxy' is no URL"),
        ("agent.guest_components_procs=All", "agent.guest_components_procs: 'All' is not one of none, att"),
        ("cgroup_no_v1=", "cgroup_no_v1: empty"),
        (f"{MEM}enable=1 {MEM}memcg_swap=1", f"{MEM}memcg_swap: '1' is neither true nor false, False kept"),
        (f"{MEM}enable=1 {MEM}compact_order=256", f"{MEM}compact_order: '256' is out of range, 0 to 255 is"),
    ],
)
def test_bad_value_keeps_the_default_and_is_reported(word: str, complaint: str) -> None:
    reading = config.parse_cmdline(word)
    assert reading.config.replace(mem_agent_enable=False) == config.Config()
    assert len(reading.complaints) == 1
    assert reading.complaints[0].startswith(complaint)


def test_unknown_words_of_ours_are_kept_for_whoever_asks() -> None:
    reading = config.parse_cmdline("quiet agent.logx=debug agent.devmode=true kata.log=/x")
    assert reading.complaints == ()
    assert reading.unknown == ("agent.logx=debug", "agent.devmode=true")


@pytest.mark.parametrize("address", ["", "=", "=foo", "foo=bar=baz="])
def test_environment_wins_and_takes_any_address(address: str) -> None:
    reading = config.apply_environment(
        config.parse_cmdline("agent.server_addr=vsock://-1:1 agent.log=error"),
        {"KATA_AGENT_SERVER_ADDR": address, "KATA_AGENT_LOG_LEVEL": "debug", "KATA_AGENT_CRUN": "/x"},
    )
    assert reading.config.server_address == address
    assert reading.config.log_level == "debug"
    assert reading.config.crun_path == "/x"
    assert reading.origins["log_level"] == "environment KATA_AGENT_LOG_LEVEL"


def test_bad_level_in_the_environment_is_ignored_and_reported() -> None:
    reading = config.apply_environment(
        config.parse_cmdline("agent.log=error"), {"KATA_AGENT_LOG_LEVEL": "loud"}
    )
    assert reading.config.log_level == "error"
    assert "KATA_AGENT_LOG_LEVEL" in reading.complaints[0]


def test_toml_has_kata_s_names_and_duration_tables(write: Write) -> None:
    path = write(
        'server_addr = "unix:///a"\nlog_level = "warn"\nhotplug_timeout = { secs = 9, nanos = 500000000 }\nx = 1\n'
        "dev_mode = true\ncontainer_pipe_size = 4096\npassfd_listener_port = -3\nmem_agent_enable = true\n"
        "mem_agent_compact_order = 3\n"
    )
    reading = files.read_files(path, lines=True)
    assert reading.complaints == ()
    assert reading.config == config.Config(
        server_address="unix:///a", log_level="warn", hotplug_timeout_s=9.5, dev_mode=True,
        container_pipe_size_bytes=4096, mem_agent_enable=True, mem_agent_compact_order=3,
    )  # fmt: skip
    assert reading.origins["hotplug_timeout_s"] == f"{path} line 3"
    assert reading.unknown == (f"{path} line 4: x",)


def test_settings_of_a_part_that_is_off_do_not_count(write: Write) -> None:
    reading = files.read_files(write("mem_agent_compact_order = 3\n"))
    assert (reading.config, reading.complaints) == (config.Config(), ())


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("log_level = true", "log_level: a string is needed, not a boolean, 'info' kept"),
        ("server_addr = [1]", "server_addr: a string is needed, not a list, 'vsock://-1:1024' kept"),
        (
            "hotplug_timeout = 3",
            "hotplug_timeout: a duration { secs = 3, nanos = 0 } is needed, not a number, 3",
        ),
        (
            "hotplug_timeout = { secs = 3 }",
            "hotplug_timeout: a duration { secs = 3, nanos = 0 } is needed, not a",
        ),
        ("dev_mode = 1", "dev_mode: a boolean is needed, not a number, False kept"),
        ('container_pipe_size = "1"', "container_pipe_size: a number is needed, not a string, 0 kept"),
        ("container_pipe_size = -1", "container_pipe_size: '-1' is not a number of zero or more, 0 kept"),
        ('log_level = "loud"', "log_level: 'loud' is not one of"),
        ('"log_level" = 1.5', "log_level: a string is needed, not a float"),
    ],
)
def test_wrong_value_in_a_file_is_told_with_file_line_and_key(
    line: str, complaint: str, write: Write
) -> None:
    path = write(f'# log_level = 0\nno_proxy = """\nlog_level = 3\n"""\n\n{line}\nhttps_proxy = "http://x"\n')
    reading = files.read_files(path)
    assert reading.config.replace(no_proxy="", https_proxy="") == config.Config()
    (told,) = reading.complaints
    assert told.startswith(f"{path} line 6: {complaint}")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('log_level = "debug"\nserver_addr "x"\n', " line 2, key server_addr"),
        ("a = 1\na = 2\n", " line 2, key a: cannot overwrite a value"),
        ('log_level = "debug\n', " line 1, key log_level: illegal character"),
        ('log_level = """debug\n', " line 1, key log_level: unterminated string"),
    ],
)
def test_wrong_syntax_is_told_with_file_line_and_key(text: str, problem: str, write: Write) -> None:
    path = write(text)
    with pytest.raises(config.SettingsFileError) as caught:
        files.read_files(path)
    assert str(caught.value).startswith(path + problem)


def test_file_that_is_not_there_not_text_or_too_large_is_told(write: Write, tmp_path: Path) -> None:
    with pytest.raises(config.SettingsFileError, match="none: No such file or directory"):
        files.read_files(str(tmp_path / "none"))
    (tmp_path / "bytes").write_bytes(b"a = 1\nb = '\xff'\n")
    with pytest.raises(config.SettingsFileError, match="bytes line 2: not UTF-8"):
        files.read_files(str(tmp_path / "bytes"))
    with pytest.raises(config.SettingsFileError, match="larger than 1048576 bytes"):
        files.read_files(write("#" * (1 << 20) + "\n"))


@pytest.mark.parametrize(
    "text", ["a = " + "[" * 5000 + "]" * 5000, "a = " + "9" * 5000], ids=["nesting", "digits"]
)
def test_file_beyond_the_parser_s_own_bounds_is_told_and_ends_no_agent(write: Write, text: str) -> None:
    path = write(text)
    with pytest.raises(config.SettingsFileError, match=path):
        files.read_files(path)


def test_drop_ins_are_merged_in_the_order_of_their_names(write: Write) -> None:
    path = write('log_level = "warn"\nno_proxy = "a"\nhotplug_timeout = { secs = 9, nanos = 0 }\n')
    write('log_level = "error"\n', "20-later.toml")
    write('\nlog_level = "debug"\nno_proxy = "b"\nhotplug_timeout.secs = 4\n', "10-first.toml")
    write('log_level = "trace"\n', "30.conf")
    write('log_level = "trace"\n', ".30.toml")
    reading = files.read_files(path, lines=True)
    folder = Path(path).parent / "config.d"
    assert (reading.config.log_level, reading.config.no_proxy) == ("error", "b")
    assert reading.config.hotplug_timeout_s == 4
    assert reading.origins["log_level"] == f"{folder}/20-later.toml line 1"
    assert reading.origins["no_proxy"] == f"{folder}/10-first.toml line 3"


def test_wrong_drop_in_is_named(write: Write) -> None:
    path = write('log_level = "warn"\n')
    write("log_level = 1\n", "10.toml")
    assert (
        files.read_files(path)
        .complaints[0]
        .startswith(f"{Path(path).parent}/config.d/10.toml line 1: log_level")
    )
    write("log_level\n", "20.toml")
    with pytest.raises(config.SettingsFileError, match=r"config\.d/20\.toml line 1, key log_level"):
        files.read_files(path)


def test_allow_list_is_read_and_one_of_a_wrong_type_allows_nothing(write: Write) -> None:
    assert files.read_files(write('[endpoints]\nallowed = ["Check"]\n')).config.endpoints == AllowList(
        frozenset({"Check"})
    )
    path = write('\n[endpoints]\nallowed = "all"\n')
    reading = files.read_files(path)
    problem = (
        f"{path} line 3: endpoints.allowed: a list of strings is needed, not a string, nothing is allowed"
    )
    assert reading.complaints == (problem,)
    assert reading.config.endpoints == AllowList(frozenset(), f"settings: {problem}")


@pytest.mark.parametrize("text", ['endpoints = ["Check"]\n', "endpoints = true\n"])
def test_allow_list_without_its_table_allows_nothing(write: Write, text: str) -> None:
    path = write('[endpoints]\nallowed = ["Check"]\n')
    write(text, "10.toml")
    drop_in = Path(path).parent / "config.d/10.toml"
    reading = files.read_files(path)
    (problem,) = reading.complaints
    assert problem.startswith(
        f"{drop_in} line 1: endpoints: a table with the list `allowed` is needed, not a"
    )
    assert reading.config.endpoints == AllowList(frozenset(), f"settings: {problem}")


def test_file_of_the_command_line_of_the_process_is_read_alone_and_the_environment_wins(write: Write) -> None:
    reading = config.read_settings(
        write('log_level = "warn"\nno_proxy = "a"\n'),
        "agent.log=trace agent.devmode",
        {"KATA_AGENT_LOG_LEVEL": "debug"},
    )
    assert reading.config == config.Config(log_level="debug", no_proxy="a")


def test_file_of_the_kernel_command_line_stands_alone_without_the_environment(write: Write) -> None:
    path = write('no_proxy = "a"\n')
    cmdline = f"agent.devmode agent.config_file={path} agent.log=trace"
    reading = config.read_settings(None, cmdline, {"KATA_AGENT_LOG_LEVEL": "debug"})
    assert reading.config == config.Config(no_proxy="a")


def test_without_a_file_the_environment_wins_over_the_kernel_command_line() -> None:
    reading = config.read_settings(None, "agent.log=trace agent.devmode", {"KATA_AGENT_LOG_LEVEL": "debug"})
    assert reading.config == config.Config(log_level="debug", dev_mode=True)
    assert reading.origins == {
        "log_level": "environment KATA_AGENT_LOG_LEVEL",
        "dev_mode": "kernel command line",
    }


def test_broken_file_of_the_kernel_command_line_leaves_next_to_nothing_allowed(write: Write) -> None:
    path = write("log_level\n")
    reading = config.read_settings(None, f"agent.config_file={path}", {})
    (problem,) = reading.complaints
    assert problem.startswith(f"{path} line 1, key log_level")
    assert reading.config.endpoints == AllowList(STILL_ALLOWED, f"settings: {problem}")


def test_every_setting_has_names_of_its_own_and_help() -> None:
    for names in (
        [row.field for row in config.SETTINGS],
        [row.word for row in config.SETTINGS if row.word],
        [row.key for row in config.SETTINGS if row.key],
        [row.env for row in config.SETTINGS if row.env],
    ):
        assert len(set(names)) == len(names)
    assert all(row.help and (row.word or row.key or row.env) for row in config.SETTINGS)
    assert not any("|" in row.help for row in config.SETTINGS)


def test_settings_do_not_change_and_unknown_ones_are_refused() -> None:
    with pytest.raises(AttributeError, match="log_level: settings are made once"):
        config.Config().log_level = "debug"
    with pytest.raises(TypeError, match="no such setting: loglevel"):
        config.Config(loglevel="debug")


def test_print_config_shows_values_origins_and_problems(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write('log_level = "debug"\nhotplug_timeout = 3\nsurprise = 1\n[endpoints]\nallowed = ["Check"]\n')
    assert main.run(["--config", path, "--print-config"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines if line.startswith("log_level")] == [
        ["log_level", "debug", path, "line", "1"]
    ]
    assert f"not known, ignored: {path} line 3: surprise" in lines
    assert any(line.startswith(f"not understood: {path} line 2: hotplug_timeout") for line in lines)
    assert main.run(["--config", path, "--print-config", "--json"]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed["settings"]["endpoints.allowed"] == {"value": ["Check"], "origin": f"{path} line 5"}
    assert printed["settings"]["server_addr"]["origin"] == "default"


def test_print_config_of_a_broken_file_says_why(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = write("log_level\n")
    assert main.run(["--config", path, "--print-config"]) == 1
    assert f"kata-agent: settings of {path} line 1, key log_level" in capsys.readouterr().err


def test_table_for_the_documents_has_every_setting() -> None:
    assert len(show.format_markdown()) == len(config.SETTINGS)
