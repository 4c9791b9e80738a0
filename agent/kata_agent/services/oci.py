"""From the wire's OCI messages to the JSON-shaped dictionaries that the OCI runtime specification defines.

Owns: field names, which values mean "not set", and which words are words of the specification. Pure.
Must not know: what the agent does with a spec (`containers/spec.py` rewrites it).
Follows: the OCI runtime specification 1.2 and Kata's `oci.proto`. Proto3 numbers have no presence: 0 is
"not set" except where the rows below keep it. An absent message stays absent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kata_agent.services import oci_word

Message = Any
Json = dict[str, Any]
Convert = Callable[[Any], Any]
# (wire field, key of the JSON document, conversion or None, whether a zero or empty value is kept)
Row = tuple[str, str, "Convert | None", bool]

KEEP = True
DROP = False


def spec(message: Message) -> Json:
    """A whole `grpc.Spec`."""
    result = _convert(message, _SPEC)
    result.setdefault("ociVersion", "1.0.2")
    return result


def process(message: Message) -> Json:
    """A `grpc.Process`. An empty argument list runs `sh`, as in Kata's agent."""
    result = _convert(message, _PROCESS)
    if not result.get("args"):
        result["args"] = ["sh"]
    return result


def resources(message: Message) -> Json:
    """A `grpc.LinuxResources`: the part that UpdateContainer sends alone."""
    return _convert(message, _RESOURCES)


def _convert(message: Message, rows: tuple[Row, ...]) -> Json:
    result: Json = {}
    for field, key, convert, keep in rows:
        value = getattr(message, field)
        if hasattr(value, "ListFields"):
            if message.HasField(field):
                result[key] = convert(value) if convert else value
        elif value or keep:
            result[key] = convert(value) if convert else value
    return result


def _one(rows: tuple[Row, ...]) -> Convert:
    return lambda message: _convert(message, rows)


def _each(rows: tuple[Row, ...]) -> Convert:
    return lambda messages: [_convert(message, rows) for message in messages]


def _seccomp_syscall(message: Message) -> Json:
    result = _convert(message, _SYSCALL)
    if message.WhichOneof("ErrnoRet"):
        result["errnoRet"] = message.errnoret
    return result


def _device_rule(message: Message) -> Json:
    """A device rule. -1 is the wildcard; 0, which hosts also send for "not set", is one in a deny rule only.

    Reading it so in an allow rule would open every device where the host meant none.
    """
    result = _convert(message, _DEVICE_RULE)
    for field, key in (("Major", "major"), ("Minor", "minor")):
        number = getattr(message, field)
        if number > 0 or (number == 0 and (message.Allow or message.Major > 0)):
            result[key] = number
    return result


def _user(message: Message) -> Json:
    return _convert(message, _USER)


def _pids(message: Message) -> Json:
    return {"limit": message.Limit}


_BOX: tuple[Row, ...] = (("Height", "height", None, KEEP), ("Width", "width", None, KEEP))

# The additional groups are always set, so that an empty list drops the agent's own.
_USER: tuple[Row, ...] = (
    ("UID", "uid", None, KEEP),
    ("GID", "gid", None, KEEP),
    ("AdditionalGids", "additionalGids", list, KEEP),
    ("Username", "username", None, DROP),
)

_CAPABILITIES: tuple[Row, ...] = (
    ("Bounding", "bounding", oci_word.capabilities, KEEP),
    ("Effective", "effective", oci_word.capabilities, KEEP),
    ("Inheritable", "inheritable", oci_word.capabilities, KEEP),
    ("Permitted", "permitted", oci_word.capabilities, KEEP),
    ("Ambient", "ambient", oci_word.capabilities, KEEP),
)

_RLIMIT: tuple[Row, ...] = (
    ("Type", "type", oci_word.rlimit, KEEP),
    ("Hard", "hard", None, KEEP),
    ("Soft", "soft", None, KEEP),
)

# The OOM score is kept when 0: dropped, the container would inherit the agent's own.
_PROCESS: tuple[Row, ...] = (
    ("Terminal", "terminal", None, KEEP),
    ("ConsoleSize", "consoleSize", _one(_BOX), DROP),
    ("User", "user", _user, DROP),
    ("Args", "args", list, DROP),
    ("Env", "env", list, KEEP),
    ("Cwd", "cwd", None, DROP),
    ("Capabilities", "capabilities", _one(_CAPABILITIES), DROP),
    ("Rlimits", "rlimits", _each(_RLIMIT), DROP),
    ("NoNewPrivileges", "noNewPrivileges", None, KEEP),
    ("ApparmorProfile", "apparmorProfile", None, DROP),
    ("OOMScoreAdj", "oomScoreAdj", None, KEEP),
    ("SelinuxLabel", "selinuxLabel", None, DROP),
)

_ROOT: tuple[Row, ...] = (("Path", "path", None, KEEP), ("Readonly", "readonly", None, KEEP))

_MOUNT: tuple[Row, ...] = (
    ("destination", "destination", None, KEEP),
    ("source", "source", None, DROP),
    ("type", "type", None, DROP),
    ("options", "options", list, DROP),
)

_HOOK: tuple[Row, ...] = (
    ("Path", "path", None, KEEP),
    ("Args", "args", list, DROP),
    ("Env", "env", list, DROP),
    ("Timeout", "timeout", oci_word.timeout, DROP),
)

_HOOKS: tuple[Row, ...] = (
    ("Prestart", "prestart", _each(_HOOK), DROP),
    ("Poststart", "poststart", _each(_HOOK), DROP),
    ("Poststop", "poststop", _each(_HOOK), DROP),
    ("CreateRuntime", "createRuntime", _each(_HOOK), DROP),
    ("CreateContainer", "createContainer", _each(_HOOK), DROP),
    ("StartContainer", "startContainer", _each(_HOOK), DROP),
)

_ID_MAPPING: tuple[Row, ...] = (
    ("ContainerID", "containerID", None, KEEP),
    ("HostID", "hostID", None, KEEP),
    ("Size", "size", None, KEEP),
)

_NAMESPACE: tuple[Row, ...] = (("Type", "type", oci_word.namespace, KEEP), ("Path", "path", None, DROP))

_DEVICE: tuple[Row, ...] = (
    ("Path", "path", None, KEEP),
    ("Type", "type", oci_word.device, KEEP),
    ("Major", "major", None, KEEP),
    ("Minor", "minor", None, KEEP),
    ("FileMode", "fileMode", None, DROP),
    ("UID", "uid", None, KEEP),
    ("GID", "gid", None, KEEP),
)

_DEVICE_RULE: tuple[Row, ...] = (
    ("Allow", "allow", None, KEEP),
    ("Type", "type", oci_word.device_rule, DROP),
    ("Access", "access", oci_word.access, DROP),
)

# Negative limits are "no limit" and stay.
_MEMORY: tuple[Row, ...] = (
    ("Limit", "limit", None, DROP),
    ("Reservation", "reservation", None, DROP),
    ("Swap", "swap", None, DROP),
    ("Kernel", "kernel", None, DROP),
    ("KernelTCP", "kernelTCP", None, DROP),
    ("Swappiness", "swappiness", None, DROP),
    ("DisableOOMKiller", "disableOOMKiller", None, DROP),
)

_CPU: tuple[Row, ...] = (
    ("Shares", "shares", None, DROP),
    ("Quota", "quota", None, DROP),
    ("Period", "period", None, DROP),
    ("RealtimeRuntime", "realtimeRuntime", None, DROP),
    ("RealtimePeriod", "realtimePeriod", None, DROP),
    ("Cpus", "cpus", None, DROP),
    ("Mems", "mems", None, DROP),
)

_WEIGHT_DEVICE: tuple[Row, ...] = (
    ("Major", "major", None, KEEP),
    ("Minor", "minor", None, KEEP),
    ("Weight", "weight", None, DROP),
    ("LeafWeight", "leafWeight", None, DROP),
)

_THROTTLE_DEVICE: tuple[Row, ...] = (
    ("Major", "major", None, KEEP),
    ("Minor", "minor", None, KEEP),
    ("Rate", "rate", None, KEEP),
)

_BLOCK_IO: tuple[Row, ...] = (
    ("Weight", "weight", None, DROP),
    ("LeafWeight", "leafWeight", None, DROP),
    ("WeightDevice", "weightDevice", _each(_WEIGHT_DEVICE), DROP),
    ("ThrottleReadBpsDevice", "throttleReadBpsDevice", _each(_THROTTLE_DEVICE), DROP),
    ("ThrottleWriteBpsDevice", "throttleWriteBpsDevice", _each(_THROTTLE_DEVICE), DROP),
    ("ThrottleReadIOPSDevice", "throttleReadIOPSDevice", _each(_THROTTLE_DEVICE), DROP),
    ("ThrottleWriteIOPSDevice", "throttleWriteIOPSDevice", _each(_THROTTLE_DEVICE), DROP),
)

_HUGEPAGE: tuple[Row, ...] = (("Pagesize", "pageSize", None, KEEP), ("Limit", "limit", None, KEEP))

_PRIORITY: tuple[Row, ...] = (("Name", "name", None, KEEP), ("Priority", "priority", None, KEEP))

_NETWORK: tuple[Row, ...] = (
    ("ClassID", "classID", None, DROP),
    ("Priorities", "priorities", _each(_PRIORITY), DROP),
)

_RESOURCES: tuple[Row, ...] = (
    ("Devices", "devices", lambda rules: [_device_rule(rule) for rule in rules], DROP),
    ("Memory", "memory", _one(_MEMORY), DROP),
    ("CPU", "cpu", _one(_CPU), DROP),
    ("Pids", "pids", _pids, DROP),
    ("BlockIO", "blockIO", _one(_BLOCK_IO), DROP),
    ("HugepageLimits", "hugepageLimits", _each(_HUGEPAGE), DROP),
    ("Network", "network", _one(_NETWORK), DROP),
)

_SECCOMP_ARGUMENT: tuple[Row, ...] = (
    ("Index", "index", None, KEEP),
    ("Value", "value", None, KEEP),
    ("ValueTwo", "valueTwo", None, DROP),
    ("Op", "op", oci_word.seccomp_operator, KEEP),
)

_SYSCALL: tuple[Row, ...] = (
    ("Names", "names", list, KEEP),
    ("Action", "action", oci_word.seccomp_action, KEEP),
    ("Args", "args", _each(_SECCOMP_ARGUMENT), DROP),
)

_SECCOMP: tuple[Row, ...] = (
    ("DefaultAction", "defaultAction", oci_word.seccomp_action, KEEP),
    ("Architectures", "architectures", oci_word.seccomp_architectures, DROP),
    ("Flags", "flags", oci_word.seccomp_flags, DROP),
    ("Syscalls", "syscalls", lambda calls: [_seccomp_syscall(call) for call in calls], DROP),
)

_INTEL_RDT: tuple[Row, ...] = (("L3CacheSchema", "l3CacheSchema", None, DROP),)

_LINUX: tuple[Row, ...] = (
    ("UIDMappings", "uidMappings", _each(_ID_MAPPING), DROP),
    ("GIDMappings", "gidMappings", _each(_ID_MAPPING), DROP),
    ("Sysctl", "sysctl", dict, DROP),
    ("Resources", "resources", resources, DROP),
    ("CgroupsPath", "cgroupsPath", None, DROP),
    ("Namespaces", "namespaces", _each(_NAMESPACE), DROP),
    ("Devices", "devices", _each(_DEVICE), DROP),
    ("Seccomp", "seccomp", _one(_SECCOMP), DROP),
    ("RootfsPropagation", "rootfsPropagation", oci_word.propagation, DROP),
    ("MaskedPaths", "maskedPaths", list, DROP),
    ("ReadonlyPaths", "readonlyPaths", list, DROP),
    ("MountLabel", "mountLabel", None, DROP),
    ("IntelRdt", "intelRdt", _one(_INTEL_RDT), DROP),
)

# Solaris and Windows mean nothing in a Linux guest.
_SPEC: tuple[Row, ...] = (
    ("Version", "ociVersion", None, DROP),
    ("Process", "process", process, DROP),
    ("Root", "root", _one(_ROOT), DROP),
    ("Hostname", "hostname", None, DROP),
    ("Mounts", "mounts", _each(_MOUNT), DROP),
    ("Hooks", "hooks", _one(_HOOKS), DROP),
    ("Annotations", "annotations", dict, DROP),
    ("Linux", "linux", _one(_LINUX), DROP),
)
