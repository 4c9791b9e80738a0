"""What the engine's answer means for a call. Pure.

Owns: allowed, denied, undefined or an error, and the text that hosts read. Follows: Kata's agent 3.21, "Policy",
"Query". Must not know: the engine's process, requests, status codes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

# What goes to the host and into the log of one decision's prints.
PRINTS_LIMIT = 4096

ALLOWED = "allowed"
DENIED = "denied"
UNDEFINED = "undefined"
ERROR = "error"


class Decision(NamedTuple):
    """One answer. `kind` is one of the words above; `why` is for people, empty when the rule itself says it."""

    rule: str
    kind: str
    why: str = ""
    prints: str = ""
    ops: tuple[Any, ...] = ()

    @property
    def allowed(self) -> bool:
        """Whether the call may go on."""
        return self.kind == ALLOWED

    @property
    def text(self) -> str:
        """What the host is told of a call that may not go on."""
        if self.kind == DENIED:
            return f"{self.rule} is blocked by policy: {self.prints}"
        return f"{self.rule}: internal error: {self.why}"


def judge(rule: str, outcome: dict[str, Any], *, allow_failures: bool) -> Decision:
    """The decision that an outcome of the engine is: `values`, `error`, `prints`."""
    prints = join_prints(outcome["prints"])
    if outcome["error"] is not None:
        return Decision(rule, ERROR, str(outcome["error"]).strip(), prints)
    values = outcome["values"]
    if len(values) > 1:
        return Decision(rule, ERROR, f"the rule has {len(values)} values instead of one", prints)
    if not values:
        why = "the policy does not define this rule for this request"
        return _pardon(Decision(rule, UNDEFINED, why, prints), allow_failures=allow_failures)
    value = values[0]
    if isinstance(value, bool):
        decision = Decision(rule, ALLOWED if value else DENIED, "", prints)
        return _pardon(decision, allow_failures=allow_failures)
    if isinstance(value, dict):
        return _pardon(_judge_object(rule, value, prints), allow_failures=allow_failures)
    return Decision(rule, ERROR, f"the rule is {_kind(value)}, neither true or false nor an object", prints)


def _judge_object(rule: str, value: dict[str, Any], prints: str) -> Decision:
    allowed, ops = value.get("allowed"), value.get("ops")
    if not isinstance(allowed, bool):
        return Decision(rule, ERROR, "the rule is an object whose `allowed` is not true or false", prints)
    if ops is not None and not isinstance(ops, list):
        return Decision(rule, ERROR, f"the rule's `ops` are {_kind(ops)}, not a list", prints)
    if not allowed:
        return Decision(rule, DENIED, "", prints)
    return Decision(rule, ALLOWED, "", prints, tuple(ops or ()))


def _pardon(decision: Decision, *, allow_failures: bool) -> Decision:
    if decision.allowed or decision.kind == ERROR or not allow_failures:
        return decision
    return decision._replace(kind=ALLOWED, why=f"{decision.kind}, but AllowRequestsFailingPolicy is true")


def join_prints(prints: list[str]) -> str:
    """The prints of one evaluation as one text; the last of them when they are too long."""
    text = " ".join(prints)
    if len(text) <= PRINTS_LIMIT:
        return text
    return f"... {text[-PRINTS_LIMIT:]}"


def _kind(value: Any) -> str:
    names = {str: "a text", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
