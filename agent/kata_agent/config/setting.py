"""What a setting is: a row of the table that is also the typed attribute of the settings in force.

Owns the mechanism alone. Must not know: any setting, any source.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

Value = TypeVar("Value")

# Types of TOML values. A duration is a table `{ secs = 3, nanos = 0 }`, as Kata's files have it.
STRING = "string"
INTEGER = "integer"
BOOLEAN = "boolean"
DURATION = "duration"
STRINGS = "list of strings"


class Setting(Generic[Value]):
    """One row: a class attribute of `Config` in the table, the value in force on an instance.

    `parse` makes the value of a source's text or raises ValueError with what is wrong; the text of a TOML value is
    its number or its word, a duration's are its seconds, and a list stays one. `word` belongs to the kernel command
    line, with `flag` it also counts bare (`flag="only"`: only bare). `key` is TOML's, dotted below a table. `unset` is
    a value that means "not given". `under` names a switch without which the setting does not count. The environment's
    value is parsed by `env_parse`, when it is another.
    """

    __slots__ = (
        *("default", "env", "env_parse", "field", "flag", "help", "key"),
        *("parse", "toml", "under", "unset", "word"),
    )

    def __init__(
        self,
        parse: Callable[[Any], Value],
        default: Value,
        help: str,  # noqa: A002 - what it is
        *,
        word: str = "",
        key: str = "",
        toml: str = STRING,
        flag: str = "",
        env: str = "",
        env_parse: Callable[[str], Value] | None = None,
        unset: Value | None = None,
        under: str = "",
    ) -> None:
        self.field = ""
        self.parse = parse
        self.default = default
        self.help = help
        self.word = word
        self.key = key
        self.toml = toml
        self.flag = flag
        self.env = env
        self.env_parse = env_parse or parse
        self.unset = unset
        self.under = under

    def __set_name__(self, _owner: type, name: str) -> None:
        self.field = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: Settings, owner: type) -> Value: ...
    def __get__(self, instance: Settings | None, owner: type) -> Self | Value:
        """The row on the class, the value on an instance."""
        if instance is None:
            return self
        value: Value = instance.values.get(self.field, self.default)
        return value

    def __set__(self, instance: Settings, value: Value) -> None:
        """Settings in force do not change."""
        raise AttributeError(f"{self.field}: settings are made once; use replace()")


class Settings:
    """Base of a table: immutable, made of the values that are not the default."""

    __slots__ = ("values",)

    def __init__(self, **values: Any) -> None:
        """Values by field. TypeError for a field that the table has not."""
        known = {row.field for row in list_rows(type(self))}
        if unknown := values.keys() - known:
            raise TypeError(f"no such setting: {', '.join(sorted(unknown))}")
        self.values = values

    def replace(self, **values: Any) -> Self:
        """The same with other values."""
        return type(self)(**{**self.values, **values})

    def as_dict(self) -> dict[str, Any]:
        """Every value by its field."""
        return {row.field: getattr(self, row.field) for row in list_rows(type(self))}

    def __eq__(self, other: object) -> bool:
        """Whether all values are the same."""
        return isinstance(other, type(self)) and self.as_dict() == other.as_dict()

    def __hash__(self) -> int:
        """As equality."""
        return hash(tuple(self.as_dict().values()))

    def __repr__(self) -> str:
        """What is not the default."""
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.values.items())})"


def list_rows(table: type[Settings]) -> tuple[Setting[Any], ...]:
    """The rows of a table, as they are written."""
    return tuple(row for row in vars(table).values() if isinstance(row, Setting))
