"""`PCIDEVICE_` variables: the host's PCI addresses in them become the guest's. Pure.

Follows: Kata's agent 3.21, "PCIDEVICE_ environment variables", with its faults left out: addresses of all devices
count, and of one that is another's in the guest nothing is translated twice.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kata_agent.devices.pci import parse_address
from kata_agent.errors import InvalidRequest, Malformed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PREFIX = "PCIDEVICE_"
_INFO = "_INFO"


def concerns(environment: Sequence[str]) -> bool:
    """Whether there is anything to translate."""
    return any(entry.startswith(PREFIX) for entry in environment)


def translate(environment: Sequence[str], addresses: Mapping[str, str], container_id: str) -> list[str]:
    """The environment of a process. `addresses` are the guest's by the host's. Raises `InvalidRequest`."""
    entries = []
    for entry in environment:
        name, equals, value = entry.partition("=")
        if not equals:
            raise InvalidRequest(f"Malformed OCI env entry {entry!r}: it has no '='")
        entries.append((name, value))
    lists = {name for name, _ in entries if name.startswith(PREFIX) and not name.endswith(_INFO)}
    result = []
    for name, value in entries:
        text = value
        if name in lists:
            text = ",".join(_translate(name, host, addresses, container_id) for host in value.split(","))
        elif name.endswith(_INFO) and name.removesuffix(_INFO) in lists:
            text = replace_all(value, addresses)
        result.append(f"{name}={text}")
    return result


def replace_all(text: str, addresses: Mapping[str, str]) -> str:
    """Every host address in a text, at once: what one has become is not looked at again."""
    if not addresses:
        return text
    pattern = "|".join(re.escape(host) for host in sorted(addresses, key=len, reverse=True))
    return re.sub(pattern, lambda found: addresses[found[0]], text)


def _translate(name: str, host: str, addresses: Mapping[str, str], container_id: str) -> str:
    try:
        address = parse_address(host)
    except Malformed as error:
        raise InvalidRequest(f"Can't parse {name} environment variable: {error}") from None
    if not addresses:
        raise InvalidRequest(f"No PCI mapping found for container {container_id}, and {name} has {host}")
    guest = addresses.get(address)
    if guest is None:
        raise InvalidRequest(f"Unable to translate host PCI address {host} of {name}: no device has it")
    return guest
