"""Decoding of bytes that others wrote: one function for each form, and one error.

msgspec raises errors of its own, `UnicodeDecodeError` for text that is no UTF-8, `RecursionError` for values nested
too deep and `ValueError` for numbers beyond what Python reads. A caller that forgets one of them is stopped by bytes
that it should have refused. So each raises `UndecodableError` here, and nothing else is caught: any other error is a
bug.

The size of what is decoded is bounded where it is read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")
Bytes = bytes | bytearray | memoryview | msgspec.Raw

_ERRORS = (msgspec.MsgspecError, RecursionError, ValueError)


class UndecodableError(ValueError):
    """The bytes are no value of the type asked for.

    The text is the parser's, and may repeat a value of an enumeration; `shared.records.unreadable.why` makes one for
    people.
    """


def decode(kind: type[T], raw: Bytes | str) -> T:
    """Read JSON as a value of `kind`. Raises `UndecodableError`."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except _ERRORS as error:
        raise UndecodableError(str(error)) from error


def decode_any(raw: Bytes | str) -> Any:
    """Read JSON of any shape. Raises `UndecodableError`."""
    try:
        return msgspec.json.decode(raw)
    except _ERRORS as error:
        raise UndecodableError(str(error)) from error


def decode_by(decoder: msgspec.json.Decoder[T] | msgspec.msgpack.Decoder[T], raw: Bytes) -> T:
    """Read JSON or MessagePack by a decoder that was made before, for what is read often. Raises `UndecodableError`."""
    try:
        return decoder.decode(raw)
    except _ERRORS as error:
        raise UndecodableError(str(error)) from error


def decode_msgpack(kind: type[T], raw: bytes) -> T:
    """Read MessagePack as a value of `kind`. Raises `UndecodableError`."""
    try:
        return msgspec.msgpack.decode(raw, type=kind)
    except _ERRORS as error:
        raise UndecodableError(str(error)) from error


def convert(kind: type[T], value: Any, *, strict: bool = True) -> T:
    """Read what a parser made (dicts, lists, text, numbers) as a value of `kind`. Raises `UndecodableError`.

    With `strict=False` text is read as the number or boolean that it holds.
    """
    try:
        return msgspec.convert(value, type=kind, strict=strict)
    except _ERRORS as error:
        raise UndecodableError(str(error)) from error


@contextlib.contextmanager
def decoding() -> Generator[None]:
    """The same for steps in between, such as base64 or a walk through nested values: their errors become this one."""
    try:
        yield
    except UndecodableError:
        raise
    except _ERRORS as error:
        raise UndecodableError(str(error)) from error
