"""Lists of CPUs and memory nodes as the kernel writes them: `0-3,7`. Pure; follows cpuset(7), "List format"."""

from __future__ import annotations

from kata_agent.errors import InvalidRequest

# The largest CPU number that any Linux is built for is below this; a longer range is a mistake or an attack.
MAX_NUMBER = 65535


def parse(what: str, text: str) -> frozenset[int]:
    """The numbers of a list; `what` names it in the refusal."""
    numbers: set[int] = set()
    for part in text.replace("\n", "").split(","):
        first, dash, last = part.strip().partition("-")
        if not first and not dash:
            continue
        low, high = _number(what, text, first), _number(what, text, last if dash else first)
        if low > high:
            raise InvalidRequest(f"{what} {text!r}: {low} is more than {high}")
        numbers.update(range(low, high + 1))
    return frozenset(numbers)


def render(numbers: frozenset[int]) -> str:
    """The shortest list of these numbers."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)


def _number(what: str, text: str, digits: str) -> int:
    if not digits.isascii() or not digits.isdecimal() or int(digits) > MAX_NUMBER:
        raise InvalidRequest(f"{what} {text!r} is not a list like 0-3,7 of numbers up to {MAX_NUMBER}")
    return int(digits)
