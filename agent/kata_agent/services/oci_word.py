"""The words that the OCI runtime specification allows in its enumerations.

Owns: the sets of words and their check. Pure. Must not know: messages or documents.
Follows: the OCI runtime specification 1.2, capabilities(7), getrlimit(2). A word outside its set is refused
by name: Kata's agent panics, or quietly takes another, where one is unknown.
"""

# ruff: noqa: SIM905 - tables of words are easier to read without the quotes

from __future__ import annotations

from collections.abc import Iterable

from kata_agent.errors import InvalidRequest

NAMESPACES = {
    "mnt": "mount",
    "mount": "mount",
    "net": "network",
    "network": "network",
    "uts": "uts",
    "ipc": "ipc",
    "user": "user",
    "pid": "pid",
    "cgroup": "cgroup",
    "time": "time",
}

CAPABILITIES = frozenset(
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE "
    "NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT "
    "SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE "
    "AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ "
    "PERFMON BPF CHECKPOINT_RESTORE".split()
)

RLIMITS = frozenset(
    f"RLIMIT_{name}"
    for name in "AS CORE CPU DATA FSIZE LOCKS MEMLOCK MSGQUEUE NICE NOFILE NPROC RSS RTPRIO RTTIME "
    "SIGPENDING STACK".split()
)

SECCOMP_ACTIONS = frozenset(
    f"SCMP_ACT_{name}" for name in "KILL KILL_PROCESS KILL_THREAD TRAP ERRNO TRACE ALLOW LOG NOTIFY".split()
)

SECCOMP_ARCHITECTURES = frozenset(
    f"SCMP_ARCH_{name}"
    for name in "NATIVE X86 X86_64 X32 ARM AARCH64 MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PPC "
    "PPC64 PPC64LE S390 S390X PARISC PARISC64 RISCV64 LOONGARCH64 M68K SH SHEB".split()
)

SECCOMP_FLAGS = frozenset(
    f"SECCOMP_FILTER_FLAG_{name}"
    for name in "TSYNC LOG SPEC_ALLOW NEW_LISTENER TSYNC_ESRCH WAIT_KILLABLE_RECV".split()
)

SECCOMP_OPERATORS = frozenset(f"SCMP_CMP_{name}" for name in "NE LT LE EQ GE GT MASKED_EQ".split())

DEVICES = frozenset("bcup")
DEVICE_RULES = frozenset("abcup")
PROPAGATIONS = frozenset("shared slave private unbindable rshared rslave rprivate runbindable".split())


def capabilities(names: Iterable[str]) -> list[str]:
    """Names in their canonical form; the wire has them with or without `CAP_`, even in JSON quotes."""
    return [_capability(name) for name in names]


def rlimit(name: str) -> str:
    """A resource of getrlimit(2)."""
    return _known("rlimit type", name, RLIMITS)


def namespace(name: str) -> str:
    """A namespace's type in the specification's spelling."""
    if name not in NAMESPACES:
        raise InvalidRequest(f"namespace type {name!r} is not one of {', '.join(sorted(set(NAMESPACES)))}")
    return NAMESPACES[name]


def device(name: str) -> str:
    """The type of a device node."""
    return _known("device type", name, DEVICES)


def device_rule(name: str) -> str:
    """The type in a device rule."""
    return _known("device rule type", name, DEVICE_RULES)


def access(letters: str) -> str:
    """What a device rule is about: any of read, write, mknod."""
    if set(letters) - set("rwm"):
        raise InvalidRequest(f"device rule access {letters!r} has other letters than r, w, m")
    return letters


def propagation(name: str) -> str:
    """A mount propagation."""
    return _known("root propagation", name, PROPAGATIONS)


def timeout(seconds: int) -> int:
    """A hook's time limit."""
    if seconds < 0:
        raise InvalidRequest(f"hook timeout {seconds} is negative")
    return seconds


def seccomp_action(name: str) -> str:
    """What a filter does."""
    return _known("seccomp action", name, SECCOMP_ACTIONS)


def seccomp_operator(name: str) -> str:
    """How a filter compares an argument."""
    return _known("seccomp operator", name, SECCOMP_OPERATORS)


def seccomp_architectures(names: Iterable[str]) -> list[str]:
    """Architectures that a filter covers."""
    return [_known("seccomp architecture", name, SECCOMP_ARCHITECTURES) for name in names]


def seccomp_flags(names: Iterable[str]) -> list[str]:
    """Flags of seccomp(2)."""
    return [_known("seccomp flag", name, SECCOMP_FLAGS) for name in names]


def _capability(text: str) -> str:
    name = text.strip('"').upper().removeprefix("CAP_")
    if name not in CAPABILITIES:
        raise InvalidRequest(f"capability {text!r} is unknown")
    return "CAP_" + name


def _known(what: str, word: str, words: frozenset[str]) -> str:
    if word not in words:
        raise InvalidRequest(f"{what} {word!r} is not one of {', '.join(sorted(words))}")
    return word
