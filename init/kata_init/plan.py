"""What PID 1 is to do, decided once from the kernel's words, its own arguments and the environment. Pure.

Owns: the words, their parsers and defaults (docs/boot.md has the table). Must not know: the kernel, files,
sockets. A value that does not parse is told in `complaints` and the default is kept: a typing error must not
cost the boot.
"""

from __future__ import annotations

from kata_linux.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

CID_ANY = 0xFFFFFFFF
CID_HOST = 2
DEFAULT_PORT = 1024
_PORT_MAX = 0xFFFFFFFF
_UNIX_PATH_MAX = 107


class Address(Record):
    """Where to talk: `kind` is "unix" (path), "abstract" (path without the NUL), "vsock", "serial" (a port's name)."""

    kind: str
    path: str = ""
    cid: int = CID_ANY
    port: int = 0

    def __str__(self) -> str:
        """As it is written on a command line."""
        if self.kind == "vsock":
            return f"vsock://{-1 if self.cid == CID_ANY else self.cid}:{self.port}"
        if self.kind == "serial":
            return f"serial:{self.path}"
        return f"unix://{'@' if self.kind == 'abstract' else ''}{self.path}"


class Plan(Record):
    """Everything PID 1 was told."""

    listen: Address = Address("vsock", port=DEFAULT_PORT)
    doorbell: Address | None = None
    modules_file: str = "/etc/kata-init/modules"
    agent_entry: str = "kata_agent.main:run_supervised"
    log_path: str = "/dev/kmsg"
    heartbeat_ns: int = 10_000_000_000
    silent_ns: int = 15_000_000_000
    restart_silent: bool = False
    words: tuple[str, ...] = ()
    complaints: tuple[str, ...] = ()


def parse_address(text: str) -> Address:
    """`unix:///path`, `unix://@name`, `vsock://CID:PORT` (CID -1 is any; the port may be left out)."""
    scheme, separator, rest = text.partition("://")
    if separator and scheme == "unix" and len(rest) > 1 and len(rest.encode()) <= _UNIX_PATH_MAX:
        if rest.startswith("@"):
            return Address("abstract", rest[1:])
        if rest.startswith("/"):
            return Address("unix", rest)
    if separator and scheme == "vsock":
        cid, _, port = rest.partition(":")
        number = CID_ANY if cid in ("-1", "") else _parse_number(cid)
        return Address("vsock", "", number, parse_port(port) if port else DEFAULT_PORT)
    raise ValueError(f"{text!r} is no address: use unix:///PATH, unix://@NAME or vsock://CID:PORT")


def parse_doorbell(text: str) -> Address:
    """A vsock port of the host, `serial:NAME` for a virtio port, or `unix:/path` and `unix:@name` without a VM."""
    if text.startswith("serial:") and len(text) > len("serial:"):
        return Address("serial", text.removeprefix("serial:"))
    if text.startswith("unix:"):
        return parse_address("unix://" + text.removeprefix("unix:").removeprefix("//"))
    return Address("vsock", "", CID_HOST, parse_port(text))


def parse_port(text: str) -> int:
    """A vsock port."""
    number = _parse_number(text)
    if not 0 < number < _PORT_MAX:
        raise ValueError(f"{text!r} is no port: use 1 to {_PORT_MAX - 1}")
    return number


def parse_entry(text: str) -> str:
    """`package.module:function`."""
    module, _, function = text.partition(":")
    if not function.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise ValueError(f"{text!r} is no entry point: use MODULE:FUNCTION")
    return text


def parse_path(text: str) -> str:
    """An absolute path."""
    if not text.startswith("/"):
        raise ValueError(f"{text!r} is no absolute path")
    return text


def parse_seconds(text: str) -> int:
    """Seconds, with a fraction if need be, as nanoseconds; 0 to a day."""
    whole, _, part = text.partition(".")
    if not (whole + part).isascii() or not (whole + part).isdigit() or len(part) > 9 or len(whole) > 5:
        raise ValueError(f"{text!r} is no number of seconds: use 10 or 0.5, at most 86400")
    nanoseconds = int(whole or "0") * 1_000_000_000 + int((part + "000000000")[:9])
    if nanoseconds > 86_400_000_000_000:
        raise ValueError(f"{text!r} is no number of seconds: use 10 or 0.5, at most 86400")
    return nanoseconds


def parse_silence(text: str) -> int:
    """Seconds, more than none."""
    nanoseconds = parse_seconds(text)
    if not nanoseconds:
        raise ValueError(f"{text!r}: say after how many seconds; kata.heartbeat=0 asks never")
    return nanoseconds


def parse_switch(text: str) -> bool:
    """`1` or `0`."""
    if text not in ("0", "1"):
        raise ValueError(f"{text!r}: use 1 or 0")
    return text == "1"


RULES: dict[str, tuple[str, Callable[[str], object]]] = {
    "agent.server_addr": ("listen", parse_address),
    "kata.doorbell": ("doorbell", parse_doorbell),
    "kata.modules": ("modules_file", parse_path),
    "kata.agent": ("agent_entry", parse_entry),
    "kata.log": ("log_path", parse_path),
    "kata.heartbeat": ("heartbeat_ns", parse_seconds),
    "kata.silent": ("silent_ns", parse_silence),
    "kata.restart_silent": ("restart_silent", parse_switch),
}
ENVIRONMENT = {"KATA_AGENT_SERVER_ADDR": "agent.server_addr"}


def make_plan(kernel: Sequence[str], arguments: Sequence[str], environment: Mapping[str, str]) -> Plan:
    """Later words win: the kernel's, then PID 1's own, then the environment. Unknown words are the agent's affair."""
    pairs = [word.partition("=")[::2] for word in (*kernel, *arguments)]
    pairs += [(word, environment[name]) for name, word in ENVIRONMENT.items() if name in environment]
    values: dict[str, object] = {}
    complaints = []
    for name, text in pairs:
        if name not in RULES:
            continue
        field, parse = RULES[name]
        try:
            values[field] = parse(text)
        except ValueError as error:
            complaints.append(f"{name}: {error}; it is ignored")
    return Plan()._replace(words=tuple(arguments), complaints=tuple(complaints), **values)  # type: ignore[arg-type]


class Module(Record):
    """A line of the modules file."""

    path: str
    parameters: str


def parse_modules(text: str, release: str) -> list[Module]:
    """`PATH [name=value ...]` a line, `#` begins a comment; a relative path is below /lib/modules/RELEASE."""
    modules = []
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if words:
            path = words[0] if words[0].startswith("/") else f"/lib/modules/{release}/{words[0]}"
            modules.append(Module(path, " ".join(words[1:])))
    return modules


def _parse_number(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"{text!r} is no number")
    return int(text)
