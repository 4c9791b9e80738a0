"""Named tuples without `typing` and `collections`: type checkers see `NamedTuple`.

Importing those two costs an idle PID 1 0.9 MB and 6 ms (python -I -S, 3.11). Fields, defaults, equality,
unpacking, matching and `_replace` work as in `typing.NamedTuple`; that is all this module owns.
"""

from __future__ import annotations

__all__ = ["Record"]

# ruff: noqa: ANN001, ANN002, ANN003, ANN202, ANN204, D102 - type checkers see NamedTuple, not this

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple as Record
else:
    from operator import itemgetter

    class _RecordType(type):
        """Makes a tuple type from the annotations of a class body."""

        def __new__(cls, name, bases, body):
            fields = tuple(body.get("__annotations__", ()))
            defaults = {field: body.pop(field) for field in fields if field in body}
            for index, field in enumerate(fields):
                body[field] = property(itemgetter(index))
            body.update(_fields=fields, _defaults=defaults, __match_args__=fields, __slots__=())
            return super().__new__(cls, name, bases, body)

    class Record(tuple, metaclass=_RecordType):
        """Base of a record; a subclass declares its fields by annotations."""

        def __new__(cls, *values, **named):
            fields = cls._fields
            if len(values) != len(fields) or named:
                rest = {**cls._defaults, **named}
                try:
                    values += tuple([rest.pop(field) for field in fields[len(values) :]])
                except KeyError as error:
                    raise TypeError(f"{cls.__name__} needs {error}") from None
                if len(values) != len(fields) or not (rest.keys() <= cls._defaults.keys()):
                    raise TypeError(f"{cls.__name__} takes the fields {fields}, got {values} and {named}")
            return tuple.__new__(cls, values)

        def __repr__(self):
            pairs = ", ".join(f"{field}={value!r}" for field, value in zip(self._fields, self, strict=True))
            return f"{type(self).__name__}({pairs})"

        def __getnewargs__(self):
            return tuple(self)

        def _asdict(self):
            return dict(zip(self._fields, self, strict=True))

        def _replace(self, **changed):
            return type(self)(**{**self._asdict(), **changed})
