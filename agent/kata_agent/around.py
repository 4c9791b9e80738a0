"""What is done around a call, whatever its handler returns: something at its begin, something at its end.

Owns: seeing the end of a plain answer, of a coroutine and of a stream alike. Must not know: what is done. A cancelled
call ends too, with the code CANCELLED.
"""

from __future__ import annotations

from contextlib import aclosing
from types import AsyncGeneratorType, CoroutineType
from typing import TYPE_CHECKING, Any

from kata_protocols.status import Code, StatusError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

    from kata_protocols.aio.router import Call

    Wrapped = Callable[[Any, Call], Any]
    End = Callable[[Code, str], None]
    """Called once with the status of the answer and its text."""
    Begin = Callable[[Any, Call], End]


def surround(inner: Wrapped, begin: Begin) -> Wrapped:
    """`inner` with `begin(request, call)` before it and what that returns after it."""

    def outer(request: Any, call: Call) -> Any:
        end = begin(request, call)
        try:
            result = inner(request, call)
        except BaseException as error:
            end(*_status(error))
            raise
        if isinstance(result, CoroutineType):
            return _finish(result, end)
        if isinstance(result, AsyncGeneratorType):
            return _relay(result, end)
        end(Code.OK, "")
        return result

    return outer


async def _finish(work: Coroutine[Any, Any, Any], end: End) -> Any:
    try:
        answer = await work
    except BaseException as error:
        end(*_status(error))
        raise
    end(Code.OK, "")
    return answer


async def _relay(messages: AsyncGenerator[Any, None], end: End) -> AsyncGenerator[Any, None]:
    try:
        async with aclosing(messages):
            async for message in messages:
                yield message
    except BaseException as error:
        end(*_status(error))
        raise
    end(Code.OK, "")


def _status(error: BaseException) -> tuple[Code, str]:
    if isinstance(error, StatusError):
        return error.code, error.message
    return (Code.UNKNOWN if isinstance(error, Exception) else Code.CANCELLED), type(error).__name__
