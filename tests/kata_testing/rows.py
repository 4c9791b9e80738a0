"""Tables of behaviours: each row has a test named for it, one elsewhere, or a reason why it is out of scope."""

from __future__ import annotations

import re
from collections.abc import Mapping

from kata_testing.repository import ROOT


def check_rows(
    names: Mapping[str, object],
    prefix: str,
    count: int,
    elsewhere: Mapping[int, str],
    later: Mapping[int, str],
) -> None:
    """Every number from 1 to `count` has a function `PREFIX_NN_...` among `names`, a test `FILE::NAME` elsewhere,
    or a reason why it is not in scope yet."""
    found = re.compile(rf"{prefix}_(\d\d)_")
    here = {int(match[1]) for name in names if (match := found.match(name))}
    assert here | set(elsewhere) | set(later) == set(range(1, count + 1))
    assert not here & set(later), "what is tested is not for later"
    for place in elsewhere.values():
        check_place(place)
    assert all(later.values())


def check_place(place: str) -> None:
    """`FILE::NAME` is a test that exists."""
    file, _, test = place.partition("::")
    assert re.search(rf"def {test}\(", (ROOT / file).read_text(encoding="utf-8")), f"{place} is not there"
