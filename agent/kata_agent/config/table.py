"""The table of settings: each declared once, with parser, default, help and the names it has in each source.

docs/agent.md shows this table; a test compares. Units are in the fields' names.
"""

from __future__ import annotations

from kata_agent.config import value
from kata_agent.config.setting import (
    BOOLEAN,
    DURATION,
    INTEGER,
    STRINGS,
    Setting,
    Settings,
    list_rows,
)

OFF: bool = False
_NO_USE = "read and shown, no effect"
_MEM = "agent.mem_agent_"


class Config(Settings):
    """The settings in force."""

    __slots__ = ()

    server_address = Setting(
        value.parse_some_text, "vsock://-1:1024", "where to listen; under our PID 1 it is told by its own words",
        word="agent.server_addr", key="server_addr", env="KATA_AGENT_SERVER_ADDR", env_parse=value.parse_text,
    )  # fmt: skip
    log_level = Setting(
        value.parse_level, "info", f"least severe level to log: {', '.join(value.LOG_LEVELS)}",
        word="agent.log", key="log_level", env="KATA_AGENT_LOG_LEVEL",
    )  # fmt: skip
    log_listener = Setting(
        value.parse_listener, "", "vsock port on which the host reads the log, usually 1025; the console has it too",
        word="agent.log_vport", key="log_vport", toml=INTEGER, unset="",
    )  # fmt: skip
    kernel_log = Setting(
        value.parse_switch, OFF, "pass the kernel's messages to the log; not in Kata's agent",
        word="agent.kernel_log", flag="too", key="kernel_log", toml=BOOLEAN,
    )  # fmt: skip
    debug_console = Setting(
        value.parse_switch, OFF, "a shell for the host: on its port, or without one on the guest's console",
        word="agent.debug_console", flag="only", key="debug_console", toml=BOOLEAN,
    )  # fmt: skip
    debug_console_listener = Setting(
        value.parse_listener, "", "vsock port of that shell, usually 1026; opens nothing by itself",
        word="agent.debug_console_vport", key="debug_console_vport", toml=INTEGER, unset="",
    )  # fmt: skip
    tracing = Setting(
        value.parse_loose_switch, OFF, "a span of each call for the host's trace forwarder",
        word="agent.trace", flag="too", key="tracing", toml=BOOLEAN, env="KATA_AGENT_TRACING",
    )  # fmt: skip
    trace_address = Setting(
        value.parse_some_text, "vsock://2:10240", "where that forwarder listens; not in Kata's agent",
        word="agent.trace_address", key="trace_address",
    )  # fmt: skip
    hotplug_timeout_s = Setting[float](
        value.parse_seconds, 3, "seconds to wait for a hot-plugged device; 0 is ignored",
        word="agent.hotplug_timeout", key="hotplug_timeout", toml=DURATION, unset=0,
    )  # fmt: skip
    cdi_timeout_s = Setting[float](
        value.parse_seconds, 100, "seconds to wait for the files that define a container's CDI devices; 0 is ignored",
        word="agent.cdi_timeout", key="cdi_timeout", toml=DURATION, unset=0,
    )  # fmt: skip
    container_pipe_size_bytes = Setting(
        value.parse_size, 0, "size of the containers' output pipes; 0 is the kernel's default",
        word="agent.container_pipe_size", key="container_pipe_size", toml=INTEGER,
    )  # fmt: skip
    passfd_listener = Setting(
        value.parse_listener, "",
        "vsock port for the streams' own connections, usually 1027; without one they are refused",
        word="agent.passfd_listener_port", key="passfd_listener_port", toml=INTEGER, unset="",
        env="KATA_AGENT_PASSFD_LISTENER",
    )  # fmt: skip
    channel = Setting(
        value.parse_some_text, "",
        "ours: name of the virtio port, or path of a device, on which the agent also serves, with yamux, as"
        " `agent.channel.0`",
        word="kata.channel", key="channel", env="KATA_AGENT_CHANNEL",
    )  # fmt: skip
    crun_path = Setting(
        value.parse_some_text, "", "the jail, where it is not the guest's", env="KATA_AGENT_CRUN"
    )
    pressure = Setting(
        value.parse_pressure, "off",
        "ours: events when tasks wait for `memory`, `io` or `cpu`, as `memory:200/2000,io` (ms within ms)",
        word="agent.pressure", key="pressure", env="KATA_AGENT_PRESSURE",
    )  # fmt: skip
    endpoints = Setting[value.AllowList | None](
        value.parse_endpoints, None,
        "methods or messages that may be called, our own service's included; without it, all",
        key="endpoints.allowed", toml=STRINGS,
    )  # fmt: skip
    policy_file = Setting(
        value.parse_some_text, "",
        "the policy in force from the start, in place of /etc/kata-opa/default-policy.rego, which may be absent",
        key="policy_file", env="KATA_AGENT_POLICY_FILE",
    )  # fmt: skip
    policy_audit = Setting(
        value.parse_switch, OFF, "ask the policy and log what it refuses, but refuse nothing",
        word="agent.policy_audit", key="policy_audit", toml=BOOLEAN,
    )  # fmt: skip

    # Kata's, which this agent has no use for (yet).
    dev_mode = Setting(
        value.parse_switch, OFF, _NO_USE, word="agent.devmode", flag="only", key="dev_mode", toml=BOOLEAN
    )
    cdh_api_timeout_s = Setting[float](
        value.parse_seconds, 50, "seconds for a call to the confidential data hub; 0 is ignored",
        word="agent.cdh_api_timeout", key="cdh_api_timeout", toml=DURATION, unset=0,
    )  # fmt: skip
    image_pull_timeout_s = Setting[float](
        value.parse_seconds, 1200, "seconds for an image to be pulled by the hub; 0 is ignored",
        word="agent.image_pull_timeout", key="image_pull_timeout", toml=DURATION, unset=0,
    )  # fmt: skip
    guest_components_rest_api = Setting(
        value.one_of("all", "attestation", "resource"), "resource",
        "what api-server-rest offers",
        word="agent.guest_components_rest_api", key="guest_components_rest_api",
    )  # fmt: skip
    guest_components_procs = Setting(
        value.one_of("none", "attestation-agent", "confidential-data-hub", "api-server-rest"), "api-server-rest",
        "the last guest component to start, after those it needs, if the image has them",
        word="agent.guest_components_procs", key="guest_components_procs",
    )  # fmt: skip
    secure_storage_integrity = Setting(
        value.parse_loose_switch, OFF, "dm-integrity for the encrypted store of images",
        word="agent.secure_storage_integrity", key="secure_storage_integrity", toml=BOOLEAN,
    )  # fmt: skip
    https_proxy = Setting(value.parse_url, "", _NO_USE, word="agent.https_proxy", key="https_proxy")
    no_proxy = Setting(value.parse_text, "", _NO_USE, word="agent.no_proxy", key="no_proxy")
    cgroup_no_v1 = Setting(
        value.parse_only_all, "", f"{_NO_USE}: it is cgroup v2 always", word="cgroup_no_v1", unset=""
    )
    unified_cgroup_hierarchy = Setting(
        value.parse_loose_switch, OFF, f"{_NO_USE}: it is cgroup v2 always",
        word="systemd.unified_cgroup_hierarchy", key="unified_cgroup_hierarchy", toml=BOOLEAN,
    )  # fmt: skip

    mem_agent_enable = Setting(
        value.parse_loose_switch, OFF, "the memory agent; its other settings count behind this word alone",
        word=f"{_MEM}enable", key="mem_agent_enable", toml=BOOLEAN,
    )  # fmt: skip
    mem_agent_memcg_disable = Setting(
        value.parse_switch, OFF, "do not take back cold pages",
        word=f"{_MEM}memcg_disable", key="mem_agent_memcg_disable",
        toml=BOOLEAN, under="mem_agent_enable",
    )  # fmt: skip
    mem_agent_memcg_swap = Setting(
        value.parse_switch, OFF, "take back anonymous pages, too, when there is swap",
        word=f"{_MEM}memcg_swap", key="mem_agent_memcg_swap",
        toml=BOOLEAN, under="mem_agent_enable",
    )  # fmt: skip
    mem_agent_memcg_swappiness_max = Setting(
        value.parse_u8, 50, "at most so much of anonymous pages, 0 to 200",
        word=f"{_MEM}memcg_swappiness_max", key="mem_agent_memcg_swappiness_max",
        toml=INTEGER, under="mem_agent_enable",
    )  # fmt: skip
    mem_agent_memcg_period_secs = Setting(
        value.parse_u64, 600, "seconds between two rounds of taking back",
        word=f"{_MEM}memcg_period_secs", key="mem_agent_memcg_period_secs",
        toml=INTEGER, under="mem_agent_enable",
    )  # fmt: skip
    mem_agent_memcg_period_psi_percent_limit = Setting(
        value.parse_u8, 1, "leave alone who waited for more of the period, in percent",
        word=f"{_MEM}memcg_period_psi_percent_limit",
        key="mem_agent_memcg_period_psi_percent_limit", toml=INTEGER, under="mem_agent_enable",
    )  # fmt: skip
    mem_agent_memcg_eviction_psi_percent_limit = Setting(
        value.parse_u8, 1, "stop taking back from who waits for more of the time, in percent",
        word=f"{_MEM}memcg_eviction_psi_percent_limit",
        key="mem_agent_memcg_eviction_psi_percent_limit", toml=INTEGER, under="mem_agent_enable",
    )  # fmt: skip
    mem_agent_memcg_eviction_run_aging_count_min = Setting(
        value.parse_u64, 3, "take back from the so manieth round on",
        word=f"{_MEM}memcg_eviction_run_aging_count_min",
        key="mem_agent_memcg_eviction_run_aging_count_min", toml=INTEGER, under="mem_agent_enable",
    )  # fmt: skip
    mem_agent_compact_disable = Setting(
        value.parse_switch, OFF, "do not compact memory",
        word=f"{_MEM}compact_disable", key="mem_agent_compact_disable",
        toml=BOOLEAN, under="mem_agent_enable",
    )  # fmt: skip
    mem_agent_compact_period_secs = Setting(
        value.parse_u64, 600, "seconds between two looks whether to compact",
        word=f"{_MEM}compact_period_secs", key="mem_agent_compact_period_secs",
        toml=INTEGER, under="mem_agent_enable",
    )  # fmt: skip
    mem_agent_compact_period_psi_percent_limit = Setting(
        value.parse_u8, 1, "do not when tasks waited for more of the period, in percent",
        word=f"{_MEM}compact_period_psi_percent_limit",
        key="mem_agent_compact_period_psi_percent_limit", toml=INTEGER, under="mem_agent_enable",
    )  # fmt: skip
    mem_agent_compact_psi_percent_limit = Setting(
        value.parse_u8, 5, "stop when tasks wait for more of the time, in percent",
        word=f"{_MEM}compact_psi_percent_limit",
        key="mem_agent_compact_psi_percent_limit", toml=INTEGER, under="mem_agent_enable",
    )  # fmt: skip
    mem_agent_compact_sec_max = Setting(
        value.parse_i64, 300, "seconds that a compaction may take",
        word=f"{_MEM}compact_sec_max", key="mem_agent_compact_sec_max",
        toml=INTEGER, under="mem_agent_enable",
    )  # fmt: skip
    mem_agent_compact_order = Setting(
        value.parse_u8, 9, "blocks of lower orders count as fragments",
        word=f"{_MEM}compact_order", key="mem_agent_compact_order",
        toml=INTEGER, under="mem_agent_enable",
    )  # fmt: skip
    mem_agent_compact_threshold = Setting(
        value.parse_u64, 1024, "compact when so many pages are fragmented anew",
        word=f"{_MEM}compact_threshold", key="mem_agent_compact_threshold",
        toml=INTEGER, under="mem_agent_enable",
    )  # fmt: skip
    mem_agent_compact_force_times = Setting(
        value.parse_u64, (1 << 64) - 1, "compact after so many looks that did not",
        word=f"{_MEM}compact_force_times",
        key="mem_agent_compact_force_times", toml=INTEGER, under="mem_agent_enable",
    )  # fmt: skip


SETTINGS = list_rows(Config)
