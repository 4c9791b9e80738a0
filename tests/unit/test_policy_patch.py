"""JSON Patch: every operation, all or nothing, and an error that names the operation."""

from __future__ import annotations

from typing import Any

import pytest

from kata_policy.patch import PatchError, apply_patch


def op(name: str, path: str, **more: Any) -> dict[str, Any]:
    return {"op": name, "path": path, **more}


@pytest.mark.parametrize(
    ("before", "operation", "after"),
    [
        ({"a": 1}, op("add", "/b", value=2), {"a": 1, "b": 2}),
        ({"a": 1}, op("add", "/a", value=2), {"a": 2}),
        ({"a": [1]}, op("add", "/a/-", value=2), {"a": [1, 2]}),
        ({"a": [1]}, op("add", "/a/0", value=2), {"a": [2, 1]}),
        ({"a": [1]}, op("add", "/a/1", value=2), {"a": [1, 2]}),
        ({"a": 1}, op("add", "", value=[]), []),
        ({"a/b": {"c~d": 1}}, op("replace", "/a~1b/c~0d", value=None), {"a/b": {"c~d": None}}),
        ({"": 1}, op("remove", "/"), {}),
        ({"a": [1, 2, 3]}, op("remove", "/a/1"), {"a": [1, 3]}),
        ({"a": {"b": 1}}, op("move", "/c", **{"from": "/a/b"}), {"a": {}, "c": 1}),
        ({"a": [1, 2]}, op("move", "/a/1", **{"from": "/a/0"}), {"a": [2, 1]}),
        ({"a": 1}, op("move", "/a", **{"from": "/a"}), {"a": 1}),
        ({"a": [1]}, op("copy", "/b", **{"from": "/a"}), {"a": [1], "b": [1]}),
        ({"a": {"b": [1.0, True]}}, op("test", "/a", value={"b": [1, True]}), {"a": {"b": [1.0, True]}}),
    ],
)
def test_operation(before: Any, operation: dict[str, Any], after: Any) -> None:
    assert apply_patch(before, [operation]) == after


@pytest.mark.parametrize(
    ("operation", "why"),
    [
        (op("remove", "/x"), "operation 0 remove /x: has no 'x'"),
        (op("replace", "/x", value=1), "operation 0 replace /x: has no 'x'"),
        (op("add", "/x/y", value=1), "operation 0 add /x/y: has no 'x'"),
        (op("add", "/list/3", value=1), "index 3 is behind the list's end, 2"),
        (op("add", "/list/01", value=1), "'01' is no index of a list"),
        (op("remove", "/list/-"), "'-' is no index of a list"),
        (op("remove", "/list/9"), "pop index out of range"),
        (op("add", "/number/x", value=1), "below a value that has no parts"),
        (op("add", "x", value=1), "is no JSON pointer"),
        (op("add", "/x"), "has no 'value'"),
        (op("jump", "/x"), "is none of add"),
        ({"path": "/x"}, "has no 'op'"),
        ("add", "is no object"),
        (op("move", "/list/0/x", **{"from": "/list"}), "moves a value into itself"),
        (op("test", "/number", value=True), "the value is another"),
        (op("test", "/list", value=[1]), "the value is another"),
    ],
)
def test_error_names_the_operation_and_nothing_has_changed(operation: Any, why: str) -> None:
    document = {"list": [1, 2], "number": 1}
    with pytest.raises(PatchError) as caught:
        apply_patch(document, [operation])
    assert why in str(caught.value)
    assert document == {"list": [1, 2], "number": 1}


def test_all_or_nothing_and_values_are_not_shared() -> None:
    value: dict[str, Any] = {"list": []}
    document: dict[str, Any] = {}
    with pytest.raises(PatchError, match="operation 1"):
        apply_patch(document, [op("add", "/a", value=value), op("remove", "/b")])
    assert document == {}
    after = apply_patch(document, [op("add", "/a", value=value), op("add", "/a/list/-", value=1)])
    assert (after, value) == ({"a": {"list": [1]}}, {"list": []})
