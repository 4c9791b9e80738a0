"""Which guest components start, in which order, with which words. Pure.

Follows: Kata's agent 3.21, "Starting the guest components".
"""

from __future__ import annotations

from collections.abc import Collection

from kata_agent.hub.probe import BINARIES, HUB_SOCKET
from kata_linux.record import Record

ATTESTATION_SOCKET = "/run/confidential-containers/attestation-agent/attestation-agent.sock"


class Component(Record):
    """A program to start. The next one starts when `socket` is there; with an empty one, at once."""

    name: str
    argv: tuple[str, ...]
    socket: str = ""
    env: tuple[tuple[str, str], ...] = ()


def plan_components(
    wanted: tuple[str, ...], rest_api: str, initdata: str, files: Collection[str]
) -> tuple[Component, ...]:
    """The components in their order. `initdata` is the folder of its files, and `files` are those that are in it."""
    made = {
        "attestation-agent": lambda: _attestation_agent(initdata, files),
        "confidential-data-hub": lambda: Component(
            "confidential-data-hub",
            (_path("confidential-data-hub"), *_option("-c", initdata, "cdh.toml", files)),
            HUB_SOCKET,
            (("OCICRYPT_KEYPROVIDER_CONFIG", "/etc/ocicrypt_config.json"),),
        ),
        "api-server-rest": lambda: Component(
            "api-server-rest", (_path("api-server-rest"), "--features", rest_api)
        ),
    }
    return tuple(made[name]() for name in wanted)


def _attestation_agent(initdata: str, files: Collection[str]) -> Component:
    return Component(
        "attestation-agent",
        (
            _path("attestation-agent"),
            "--attestation_sock",
            f"unix://{ATTESTATION_SOCKET}",
            *_option("--initdata-toml", initdata, "initdata.toml", files),
            *_option("-c", initdata, "aa.toml", files),
        ),
        ATTESTATION_SOCKET,
    )


def _option(word: str, folder: str, name: str, files: Collection[str]) -> tuple[str, ...]:
    return (word, f"{folder}/{name}") if name in files else ()


def _path(name: str) -> str:
    return f"{BINARIES}/{name}"
