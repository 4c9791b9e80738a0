"""The OCI process: defaults for what is left out, and what an exec takes over from its container. Pure.

Owns capabilities' spelling and rlimits' names. Follows: Kata's agent, "from wire spec to OCI spec" and "exec".
"""

from __future__ import annotations

from typing import Any

from kata_agent.errors import InvalidRequest

Process = dict[str, Any]

CAPABILITY_SETS = ("bounding", "effective", "inheritable", "permitted", "ambient")
_DEFAULT_CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
# What an absent process stands for.
DEFAULT: Process = {
    "args": ["sh"],
    "cwd": "/",
    "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
    "noNewPrivileges": True,
    "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 1024}],
    "capabilities": dict.fromkeys(CAPABILITY_SETS, _DEFAULT_CAPABILITIES),
}
RLIMITS = frozenset(
    f"RLIMIT_{name}"
    for name in (
        *("AS", "CORE", "CPU", "DATA", "FSIZE", "LOCKS", "MEMLOCK", "MSGQUEUE"),
        *("NICE", "NOFILE", "NPROC", "RSS", "RTPRIO", "RTTIME", "SIGPENDING", "STACK"),
    )
)
# What an exec's process takes from the container's own where it says nothing.
INHERITED = ("capabilities", "rlimits", "apparmorProfile", "selinuxLabel")
UMASK = 0o022
# -1 for setuid(2) and its kin: "leave it as it is".
NO_ID = 2**32 - 1


def complete(process: Process) -> Process:
    """A process that crun takes, from one that a host sent."""
    user = dict(process.get("user") or {})
    user.pop("username", None)
    user.setdefault("uid", 0)
    user.setdefault("gid", 0)
    for key in ("uid", "gid"):
        if user[key] == NO_ID:
            raise InvalidRequest(f"user: {key} {NO_ID} is no id, the kernel would leave the process as root")
    user.setdefault("umask", UMASK)  # or an exec would have the agent's
    result: Process = {key: value for key, value in process.items() if value not in ("", None, [])}
    result.pop("apparmorProfile", None)  # accepted and ignored, the guest has none
    result.update(
        user=user,
        args=_check_texts("args", process.get("args")) or ["sh"],
        cwd=process.get("cwd") or "/",
        env=_plan_environment(process.get("env") or []),
        terminal=bool(process.get("terminal")),
        # absent, the container would inherit the agent's own score, which protects the agent
        oomScoreAdj=_check_score(process.get("oomScoreAdj") or 0),
        rlimits=_check_rlimits(process.get("rlimits") or []),
    )
    if not all((process.get("consoleSize") or {}).values()):
        result.pop("consoleSize", None)  # 0 rows or columns: the host will tell
    if process.get("capabilities"):
        result["capabilities"] = _plan_capabilities(process["capabilities"])
    return result


def complete_exec(process: Process, container_process: Process) -> Process:
    """An exec's process; hosts may send terminal, user, args, env and cwd only."""
    filled = dict(process)
    for key in INHERITED:
        if not filled.get(key) and container_process.get(key):
            filled[key] = container_process[key]
    if container_process.get("noNewPrivileges"):
        filled["noNewPrivileges"] = True
    if not filled.get("oomScoreAdj"):
        filled["oomScoreAdj"] = container_process.get("oomScoreAdj") or 0
    return complete(filled)


def _check_score(score: int) -> int:
    if not -1000 <= score <= 1000:
        raise InvalidRequest(f"oomScoreAdj {score}: -1000 to 1000 is what the kernel takes")
    return score


def _plan_capabilities(sets: dict[str, list[str]]) -> dict[str, list[str]]:
    return {name: [_name_capability(word) for word in sets.get(name) or []] for name in CAPABILITY_SETS}


def _name_capability(word: str) -> str:
    """`CAP_X`, from any spelling that hosts use: without the prefix, or wrapped in JSON's quotes."""
    bare = word.strip('"').upper().removeprefix("CAP_")
    if not bare.replace("_", "").isalnum():
        raise InvalidRequest(f"capability {word!r} is no name")
    return f"CAP_{bare}"


def _plan_environment(entries: list[str]) -> list[str]:
    """Later entries win; those without a name are left out. Values stay as they are, byte for byte."""
    named = {entry.partition("=")[0]: entry for entry in _check_texts("env", entries) if "=" in entry[1:]}
    named.pop("", None)
    return list(named.values())


def _check_rlimits(rlimits: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for entry in rlimits:
        if entry.get("type") not in RLIMITS:
            raise InvalidRequest(f"rlimit type {entry.get('type')!r} is unknown")
    return rlimits


def _check_texts(what: str, texts: Any) -> list[str]:
    for text in texts or []:
        if "\0" in text:
            raise InvalidRequest(f"{what}: {text!r} holds a NUL byte")
    return list(texts or [])
