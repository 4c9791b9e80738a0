"""Which guest components start, with which words."""

from __future__ import annotations

import pytest

from kata_agent.hub import probe
from kata_agent.hub.plan import ATTESTATION_SOCKET, plan_components

DATA = "/run/confidential-containers/initdata"


@pytest.mark.parametrize(
    ("procs", "wanted"),
    [
        ("none", ()),
        ("attestation-agent", probe.NAMES[:1]),
        ("confidential-data-hub", probe.NAMES[:2]),
        ("api-server-rest", probe.NAMES),
    ],
)
def test_setting_names_the_last_of_those_that_start(procs, wanted):
    assert probe.list_wanted(procs) == wanted


def test_components_without_initdata():
    agent, hub, rest = plan_components(probe.NAMES, "resource", DATA, ())
    socket = f"unix://{ATTESTATION_SOCKET}"
    assert agent.argv == ("/usr/local/bin/attestation-agent", "--attestation_sock", socket)
    assert agent.socket == ATTESTATION_SOCKET
    assert (hub.argv, hub.socket) == (("/usr/local/bin/confidential-data-hub",), probe.HUB_SOCKET)
    assert hub.env == (("OCICRYPT_KEYPROVIDER_CONFIG", "/etc/ocicrypt_config.json"),)
    assert rest.argv == ("/usr/local/bin/api-server-rest", "--features", "resource")
    assert rest.socket == ""


def test_components_are_told_of_the_files_that_initdata_has():
    files = ("initdata.toml", "aa.toml", "cdh.toml")
    agent, hub = plan_components(probe.NAMES[:2], "all", DATA, files)
    assert agent.argv[3:] == ("--initdata-toml", f"{DATA}/initdata.toml", "-c", f"{DATA}/aa.toml")
    assert hub.argv[1:] == ("-c", f"{DATA}/cdh.toml")


def test_what_the_image_lacks_is_named(tmp_path):
    (tmp_path / "attestation-agent").write_text("")
    (tmp_path / "attestation-agent").chmod(0o755)
    (tmp_path / "api-server-rest").write_text("not to be run")
    missing = probe.list_missing(probe.NAMES, str(tmp_path))
    assert missing == ("confidential-data-hub", "api-server-rest")
