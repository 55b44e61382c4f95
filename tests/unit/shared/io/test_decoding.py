"""Bytes that are not what was expected raise one error, whatever is wrong with them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.io.decoding import UndecodableError, convert, decode, decode_any, decode_by, decode_msgpack, decoding

PROJECT = Path(__file__).parents[4]
DEEP = 100_000


class Thing(msgspec.Struct, frozen=True):
    name: str
    count: int = 0
    inside: dict[str, Any] = {}


BAD_JSON = (
    b"",
    b"{",
    b"nothing",
    b'{"name": 7}',
    b"{}",
    b'{"name": "\xff"}',
    b'{"name": "a", "count": 1' + b"0" * 5000 + b"}",
    b'{"name": "a", "inside": {"a": ' + b"[" * DEEP + b"]" * DEEP + b"}}",
    b"\x00\xfe",
)
JSON = msgspec.json.Decoder(Thing)
MSGPACK = msgspec.msgpack.Decoder(Thing)


@pytest.mark.parametrize("raw", BAD_JSON)
@pytest.mark.parametrize("read", [partial(decode, Thing), partial(decode_by, JSON)])
def test_json_that_is_none_or_another_raises_the_one_error(read: Callable[[bytes], Thing], raw: bytes) -> None:
    with pytest.raises(UndecodableError):
        read(raw)


@pytest.mark.parametrize("raw", [b"{", b'"\xff"', b"[" * DEEP + b"]" * DEEP, b"1" + b"0" * 5000])
def test_json_of_any_shape_raises_it_too(raw: bytes) -> None:
    with pytest.raises(UndecodableError):
        decode_any(raw)


@pytest.mark.parametrize("raw", [b"", b"\xc1", b"\x81\xa4name\x07", b"\x81\xa4name\xa1\xff", b"\x91" * DEEP])
@pytest.mark.parametrize("read", [partial(decode_msgpack, Thing), partial(decode_by, MSGPACK)])
def test_messagepack_that_is_none_or_another_raises_it_too(read: Callable[[bytes], Thing], raw: bytes) -> None:
    with pytest.raises(UndecodableError):
        read(raw)


@given(raw=st.binary(max_size=60))
def test_random_bytes_are_a_value_or_the_one_error(raw: bytes) -> None:
    for read in (
        lambda: decode(Thing, raw),
        lambda: decode_any(raw),
        lambda: decode_msgpack(Thing, raw),
    ):
        with contextlib.suppress(UndecodableError):
            read()


def test_what_fits_is_read() -> None:
    thing = Thing("a", 2)
    assert decode(Thing, b'{"name":"a","count":2}') == decode_by(JSON, msgspec.json.encode(thing)) == thing
    assert decode_msgpack(Thing, msgspec.msgpack.encode(thing)) == decode_by(MSGPACK, MSGPACK_BYTES) == thing
    assert decode_any('{"a": [1]}') == {"a": [1]}
    assert convert(Thing, {"name": "a", "count": 2}) == thing
    assert convert(int, "2", strict=False) == 2


MSGPACK_BYTES = msgspec.msgpack.encode(Thing("a", 2))


@pytest.mark.parametrize("value", [{"name": 7}, {}, [], "Thing", {"name": "a", "count": "2"}])
def test_parsed_values_that_do_not_fit_raise_it_too(value: object) -> None:
    with pytest.raises(UndecodableError):
        convert(Thing, value)


def test_the_text_names_the_place() -> None:
    with pytest.raises(UndecodableError, match=r"\$\.count"):
        decode(Thing, b'{"name": "a", "count": "secret"}')


@pytest.mark.parametrize("error", [msgspec.ValidationError("x"), RecursionError("x"), ValueError("x")])
def test_steps_in_between_raise_it_and_bugs_stay_what_they_are(error: Exception) -> None:
    def step(failure: Exception) -> None:
        with decoding():
            raise failure

    with pytest.raises(UndecodableError, match="x"):
        step(error)
    with pytest.raises(KeyError):
        step(KeyError("x"))


def test_an_error_of_this_kind_passes_unchanged() -> None:
    first = UndecodableError("x")

    def step() -> None:
        with decoding():
            raise first

    with pytest.raises(UndecodableError) as error:
        step()
    assert error.value is first


def test_no_other_module_catches_the_errors_of_the_decoder() -> None:
    own = {"shared/io/decoding.py", "shared/records/unreadable.py"}
    found = [
        f"{path.relative_to(PROJECT)}:{number}: {line.strip()}"
        for top in ("services", "shared", "cli", "deploy")
        for path in sorted((PROJECT / top).rglob("*.py"))
        if path.relative_to(PROJECT).as_posix() not in own
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"\b(MsgspecError|ValidationError)\b|msgspec\.DecodeError", line) and "self." not in line
    ]
    assert found == []
