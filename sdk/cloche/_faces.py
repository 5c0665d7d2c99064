"""One description, two faces: what stands once as an operation is a method of `Client` and of `AsyncClient`.

A class of descriptions (`cloche._resources`) has its methods marked `operation` or `stream`. A face
inherits from it and from `Sync` or `Async`; that alone decides whether a method returns what the
operation returns, or something to await. Type checkers and editors see the parameters, the documentation
and the right return type on both.
"""

from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from cloche._calls import Operation
from cloche._streams import Stream

if TYPE_CHECKING:
    from cloche.aio import AsyncClient
    from cloche.client import Client

P = ParamSpec("P")
T = TypeVar("T")


class Sync:
    """What ordinary code uses; `_client` sends the requests."""

    _client: "Client"


class Async:
    """What asyncio uses; `_client` sends the requests."""

    _client: "AsyncClient"


class operation(Generic[P, T]):  # noqa: N801 - a decorator
    """A method that sends requests: returns the result (`Sync`), or a coroutine of it (`Async`)."""

    def __init__(self, function: Callable[Concatenate[Any, P], Operation[T]]) -> None:
        self._function = function
        update_wrapper(self, function)  # type: ignore[arg-type] # for `help` and editors

    @overload
    def __get__(self, on: None, owner: type) -> Callable[..., object]: ...
    @overload
    def __get__(self, on: Sync, owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, on: Async, owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, on: Sync | Async | None, owner: type) -> object:
        if on is None:
            return self._function
        return _bound(self._function, on, on._client.perform)  # noqa: SLF001 - a face is made for this


class stream(Generic[P, T]):  # noqa: N801 - a decorator
    """A method that yields what a stream brings: an iterator (`Sync`), or an asynchronous one (`Async`)."""

    def __init__(self, function: Callable[Concatenate[Any, P], Stream[T]]) -> None:
        self._function = function
        update_wrapper(self, function)  # type: ignore[arg-type] # for `help` and editors

    @overload
    def __get__(self, on: None, owner: type) -> Callable[..., object]: ...
    @overload
    def __get__(self, on: Sync, owner: type) -> Callable[P, Iterator[T]]: ...
    @overload
    def __get__(self, on: Async, owner: type) -> Callable[P, AsyncGenerator[T, None]]: ...
    def __get__(self, on: Sync | Async | None, owner: type) -> object:
        if on is None:
            return self._function
        return _bound(self._function, on, on._client.follow)  # noqa: SLF001 - a face is made for this


def _bound(function: Callable[..., Any], on: object, send: Callable[[Any], object]) -> Callable[..., object]:
    method = function.__get__(on)

    def call(*args: object, **arguments: object) -> object:
        return send(method(*args, **arguments))

    update_wrapper(call, method)
    return call
