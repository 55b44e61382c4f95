"""Files that no verb can use: each is a way in which a name leads to the wrong thing, or to a hostile one."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from cli.history.archive import MAGIC, NOUNS, About, ArchiveState, Block, Contents

Make = Callable[[Path], Path]
"""Makes it in an empty folder."""

ABOUT = About("cluster", "mesh", "meshlog", "meshlog-system", "cluster.local", "cluster.local", "test", "")


def _content(content: bytes) -> Make:
    def make(folder: Path) -> Path:
        file = folder / "file"
        file.write_bytes(content)
        return file

    return make


def _folder(folder: Path) -> Path:
    (folder / "folder").mkdir()
    return folder / "folder"


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


def _loop(folder: Path) -> Path:
    (folder / "loop").symlink_to("loop")
    return folder / "loop"


def _sparse(folder: Path) -> Path:
    with (folder / "sparse").open("wb") as file:
        file.truncate(1 << 42)
    return folder / "sparse"


ANYWHERE: dict[str, Make] = {
    "missing": lambda folder: folder / "missing",
    "below a file": lambda folder: _content(b"")(folder) / "x",
    "a name with a NUL": lambda folder: folder / "a\0b",
    "a name of 5,000 characters": lambda folder: folder / ("x" * 5000),
    "a folder": _folder,
    "a pipe that says nothing": _pipe,
    "a link to itself": _loop,
    "4 TB of nothing": _sparse,
    "/dev/zero": lambda _: Path("/dev/zero"),
    "/dev/null": lambda _: Path("/dev/null"),
    "/proc/self/mem": lambda _: Path("/proc/self/mem"),
    "empty": _content(b""),
    "random bytes": _content(hashlib.shake_256(b"seed").digest(4096)),
    "UTF-16": _content("apiVersion: v1\n".encode("utf-16")),
    "an ELF binary": _content(b"\x7fELF\x02\x01\x01" + b"\0" * 1000),
    "half of an object": _content(b"apiVersion: v1\nkind: Service\nmetadata: {name: x, na"),
    "control characters": _content(b"a: \x1b[2J\x07\n"),
}
"""Of any kind of file."""

_LAUGHS = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 14))
_MERGES = "m0: &m0 {a: 1}\n" + "".join(
    f"m{i}: &m{i} {{<<: [{','.join([f'*m{i - 1}'] * 9)}], k{i}: 1}}\n" for i in range(1, 12)
)
_OBJECT = "apiVersion: v1\nkind: Service\nmetadata: {name: x}\n"

YAML: dict[str, Make] = {
    name: _content(text.encode())
    for name, text in {
        "billions of values by aliases": _OBJECT + "spec:\n" + "".join(f"  {line}\n" for line in _LAUGHS.splitlines()),
        "billions of values by merges": _OBJECT + _MERGES,
        "an alias to itself": _OBJECT + "spec: &a {x: *a}\n",
        "a million brackets": _OBJECT + "spec: " + "[" * 1_000_000,
        "a million mappings": _OBJECT + "spec: " + "{a: " * 1_000_000,
        "deep by indentation": _OBJECT + "spec:\n" + "\n".join(" " * depth + "a:" for depth in range(1, 2000)),
        "a number of 5,000 digits": _OBJECT + "spec: {a: " + "9" * 5000 + "}",
        "a number beyond 64 bits": _OBJECT + "spec: {a: 99999999999999999999}",
        "a Python object": _OBJECT + "spec: !!python/object/apply:os.system [true]",
        "bytes": _OBJECT + "spec: {a: !!binary aGVsbG8=}",
        "a set": _OBJECT + "spec: !!set {a, b}",
        "a key that is a list": _OBJECT + "spec: {? [a] : b}",
        "a key that is nothing": _OBJECT + "spec: {null: b}",
        "an unknown tag": _OBJECT + "spec: !x y",
        "an unknown alias": _OBJECT + "spec: *nobody",
        "two documents that are words": "a\n---\nb\n",
        "a list": "- a\n- b\n",
        "kind is a mapping": "apiVersion: v1\nkind: {a: b}\nmetadata: {name: x}\n",
        "metadata is a list": "apiVersion: v1\nkind: Service\nmetadata: [x]\n",
        "name is a list": "apiVersion: v1\nkind: Service\nmetadata: {name: [x]}\n",
        "namespace is a number": "apiVersion: v1\nkind: Service\nmetadata: {name: x, namespace: 7}\n",
        "labels are a list": "apiVersion: v1\nkind: Service\nmetadata: {name: x, labels: [a]}\n",
        "labels hold a number": "apiVersion: v1\nkind: Service\nmetadata: {name: x, labels: {a: 1}}\n",
    }.items()
}
"""Of YAML."""


# Exported logs


def archive(
    contents: Any, blocks: bytes = b"", *, raw_contents: bytes | None = None, length: int | None = None
) -> bytes:
    """A file of blocks with a table of contents, its digest right whatever is in it."""
    body = msgspec.msgpack.encode(contents) if raw_contents is None else raw_contents
    size = (len(body) if length is None else length).to_bytes(8, "big")
    return MAGIC + blocks + body + size + hashlib.sha256(body).digest() + MAGIC


def one_block(body: bytes, **changes: Any) -> bytes:
    """A file whose streams are one block each, all with this body."""
    fields: dict[str, Any] = {
        "offset": len(MAGIC),
        "length": len(body),
        "first": 1,
        "last": 1,
        "count": 1,
        "raw": 10,
        "first_time": 1,
        "digest": hashlib.sha256(body).digest(),
        **changes,
    }
    return archive(Contents(ABOUT, {noun: [Block(**fields)] for noun in NOUNS}, []), body)


def items(*held: Any) -> bytes:
    """The body of a block."""
    return zlib.compress(msgspec.msgpack.encode(list(held)), 1)


def item(
    payload: bytes,
    *,
    subject: str = "mesh.events.cluster.Service.a.b",
    sequence: int = 1,
    headers: dict[str, str] | None = None,
) -> Any:
    return (subject, sequence, 10**18, headers or {}, payload)


def _bomb() -> bytes:
    """What the review had: 389 kB that are 400 MB of zeros."""
    return zlib.compress(b"\xdd\xff\xff\xff\xff" + bytes(400_000_000), 1)


_GOOD = item(b"{}")
EXPORTS: dict[str, Make] = {
    name: _content(content() if callable(content) else content)
    for name, content in {
        "only the beginning of an export": MAGIC,
        "a table of contents longer than the file": archive({}, length=1 << 62),
        "a table of contents of 17 MB": archive({}, raw_contents=bytes(17_000_000)),
        "a table of contents that is none": archive([1, 2, 3]),
        "a deep table of contents": archive({}, raw_contents=b"\x91" * 100_000),
        "a table of contents with another type": archive({"about": 1, "streams": 2, "states": 3}),
        "a block before the file": one_block(items(_GOOD), offset=-5),
        "a block behind the file": one_block(items(_GOOD), offset=1 << 62),
        "a block of a negative length": one_block(items(_GOOD), length=-1),
        "a block of no record": one_block(items(), count=0),
        "a block of a billion records": one_block(items(_GOOD), count=10**9),
        "a block that ends before it begins": one_block(items(_GOOD), first=9, last=3),
        "a sequence beyond 64 bits": one_block(items(_GOOD), first=2**64 - 1, last=2**64 - 1),
        "a block that is no zlib stream": one_block(b"nothing of zlib"),
        "a block that is cut short": one_block(items(_GOOD)[:-6]),
        "a bomb of zeros": lambda: one_block(_bomb()),
        "a block that says it holds 4 billion": one_block(zlib.compress(b"\xdd\xff\xff\xff\xff")),
        "a record with 4 billion headers": one_block(zlib.compress(b"\x91\x95\xa1a\x01\x01\xdf\xff\xff\xff\xff")),
        "a block that is one number": one_block(zlib.compress(b"\x07")),
        "a record of another shape": one_block(items([1, 2])),
        "a subject that is no UTF-8": one_block(zlib.compress(b"\x91\x95\xa1\xff\x01\x01\x80\xc4\x00")),
        "a record with another sequence": one_block(items(item(b"{}", sequence=7))),
        "states out of order": archive(Contents(ABOUT, {}, [ArchiveState(9, []), ArchiveState(3, [])])),
        "an event that is none": one_block(items(item(b"{}"))),
        "an event that is deep": one_block(items(item(b"[" * 100_000))),
        "a subject of another kind": one_block(items(item(b"{}", subject="x"))),
        "headers that lie": one_block(items(item(b"{}", headers={"Meshlog-Chain": "zz", "Meshlog-Epoch": "\x1b"}))),
    }.items()
}
"""Exports of a log. The last few are files that can be opened, with nothing of use in them."""

CALLS: dict[str, Make] = {
    name: _content(content)
    for name, content in {
        "a call that is no JSON": b"{",
        "a call that is deep": b"[" * 100_000,
        "a call without an end": b'{"from": "a/b"}\n',
        "an unknown field": b'{"from": "a/b", "to": "c/d", "x": 1}\n',
        "a port that is text": b'{"from": "a/b", "to": "c/d", "port": "x"}\n',
        "a call that is no UTF-8": b'{"from": "\xff", "to": "c/d"}\n',
        "100,001 calls": b"".join(b'{"from": "a/b", "to": "c/%d"}\n' % number for number in range(100_001)),
    }.items()
}
"""Calls that were seen."""

_CONFIG = """\
apiVersion: v1
current-context: a
contexts: [{{name: a, context: {{cluster: a, user: a}}}}]
clusters: [{{name: a, cluster: {{server: {server}, certificate-authority-data: {ca}}}}}]
users: [{{name: a, user: {user}}}]
"""


def _config(*, server: str = "https://127.0.0.1:1", ca: str = "''", user: str = "{}") -> Make:
    return _content(_CONFIG.format(server=server, ca=ca, user=user).encode())


KUBECONFIGS: dict[str, Make] = {
    "a list": _content(b"[]"),
    "no context": _content(b"a: b"),
    "contexts that are words": _content(b"current-context: a\ncontexts: [a, b]\n"),
    "a server that is a list": _config(server="[a]"),
    "a server that is none": _config(server="'http://[::x'"),
    "a certificate authority that is no base64": _config(ca="'###'"),
    "a certificate authority that is none": _config(ca="aGVsbG8="),
    "a user that is a list": _config(user="[a]"),
    "a token that is a mapping": _config(user="{token: {a: b}}"),
    "a token with a newline": _config(user='{token: "a\\nX-Evil: 1"}'),
    "a token file that is a folder": _config(user="{tokenFile: /}"),
    "a token file that never ends": _config(user="{tokenFile: /dev/zero}"),
    "a key that is none": _config(user="{client-certificate-data: aGVsbG8=, client-key-data: aGVsbG8=}"),
    "a plugin that is not there": _config(user="{exec: {command: /none, apiVersion: v1}}"),
    "a plugin that fails": _config(user="{exec: {command: 'false', apiVersion: v1}}"),
    "a plugin that is a list": _config(user="{exec: [a]}"),
}
"""Kubeconfigs."""
