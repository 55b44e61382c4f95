"""Models how Envoy 1.40 parses the head of an HTTP/1.1 request: refusals, and the path that policy and application get.

Envoy's rules are implemented again here, so that predictions need no Envoy. A test sends thousands of generated
requests to a real one and compares (`tests/integration/compiler/test_envoy_reads.py`).
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

METHODS = frozenset(
    {
        *("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "PURGE"),
        *("COPY", "LOCK", "MKCOL", "MOVE", "PROPFIND", "PROPPATCH", "SEARCH", "UNLOCK", "MKCALENDAR"),
        *("BIND", "REBIND", "UNBIND", "ACL", "REPORT", "MKACTIVITY", "CHECKOUT", "MERGE"),
        *("NOTIFY", "SUBSCRIBE", "UNSUBSCRIBE", "LINK", "UNLINK", "SOURCE"),
    }
)
"""Methods that the HTTP/1 parser knows; any other is refused."""

Slashes = Literal["reject", "decode", "keep"]
Refusal = Literal["400", "404", "431"]

_TARGET = re.compile(r"[!-~]+\Z")
_HOST = re.compile(r"[!$%&'()*+,\-.0-9:;=@A-Z\[\]_a-z~]*\Z")
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.0-9:A-Z^_`a-z|~]+\Z")
_HEADER_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*\Z")
_ABSOLUTE = re.compile(
    r"(?i:https?)://(?:[^/?#@]*@)?(?P<host>(?:[0-9A-Za-z.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?)(?P<rest>[/?#].*)?\Z"
)
_UNRESERVED = frozenset("-.0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~")
_ESCAPED_ALWAYS = frozenset('"<>^`{|}')
_HEX = frozenset("0123456789abcdefABCDEF")
_DOT = re.compile(r"\.|%2[eE]")


class HeadRules(msgspec.Struct, frozen=True):
    """The parsing options of a connection manager."""

    normalize: bool
    merge_slashes: bool
    slashes: Slashes
    headers: int
    """The maximum number of header lines."""
    header_bytes: int


class RequestHead(msgspec.Struct, frozen=True):
    """A request's head after normalisation, as routes and rules match it."""

    path: str
    """With its query; empty for CONNECT."""
    authority: str | None
    """None if the request names no host."""


def read(method: str, target: str, headers: tuple[tuple[str, str], ...], limits: HeadRules) -> RequestHead | Refusal:
    """The head as it is after Envoy's checks and normalisation, or the status of its refusal.

    A request without a `host` header is read as if it had one, since calls to be predicted are mostly given without.
    """
    if method not in METHODS or not _TARGET.match(target):
        return "400"
    if len(headers) > limits.headers or _size(method, target, headers) > limits.header_bytes:
        return "431"
    if any(not (_HEADER_NAME.match(name) and _HEADER_VALUE.match(value)) for name, value in headers):
        return "400"
    hosts = [value for name, value in headers if name.lower() == "host"]
    authority = ",".join(hosts) if hosts else None
    if authority is not None and not _HOST.match(authority):
        return "400"
    if method == "CONNECT":
        return _connect(target)
    if not target.startswith("/"):
        return _other_form(method, target, limits)
    path = None if "#" in target else normal(target, limits)
    return "400" if path is None else RequestHead(path, authority)


def _connect(target: str) -> RequestHead | Refusal:
    """A tunnel has no path, and its target is the authority, whatever its `host` header is."""
    host, colon, port = target.rpartition(":")
    return RequestHead("", target) if colon and host and port.isdigit() and _HOST.match(host) else "400"


def _other_form(method: str, target: str, limits: HeadRules) -> RequestHead | Refusal:
    """A target that is no path: `*`, or a whole URL, whose host replaces the header's."""
    if target == "*" and method == "OPTIONS":
        return "404"
    absolute = _ABSOLUTE.match(target)
    if absolute is None:
        return "400"
    rest = absolute["rest"] or "/"
    path = None if "#" in rest else normal(rest, limits)
    if path is None:
        return "400"
    return RequestHead(path, absolute["host"]) if rest.startswith("/") else "404"


def _size(method: str, target: str, headers: tuple[tuple[str, str], ...]) -> int:
    return len(method) + len(target) + sum(len(name.encode()) + len(value.encode()) for name, value in headers)


def normal(target: str, limits: HeadRules) -> str | None:
    """A target that begins with a slash, normalised; None if it is refused."""
    path, mark, query = target.partition("?")
    if limits.slashes != "keep":
        unescaped = re.sub(r"%2[fF]", "/", path)
        unescaped = re.sub(r"%5[cC]", r"\\", unescaped)
        if unescaped != path and limits.slashes == "reject":
            return None
        path = unescaped
    if limits.normalize:
        canonical = _canonical(without_dot_parameters(path))
        if canonical is None:
            return None
        path = canonical
    if limits.merge_slashes and "//" in path:
        kept = "/".join(segment for segment in path.split("/") if segment)
        path = f"/{kept}{'/' if path.endswith('/') else ''}"
    return f"{path}{mark}{query}"


def without_dot_parameters(path: str) -> str:
    """A path whose dot segments have no `;` parameters."""
    segments = (
        ".." if segment.startswith("..;") else "." if segment.startswith(".;") else segment
        for segment in path.split("/")
    )
    return "/".join(segments)


def without_parameters(path: str) -> str:
    """A path (without query) whose segments have no `;` parameters: what routes and rules match."""
    return "/".join(segment.partition(";")[0] for segment in path.split("/"))


def _canonical(path: str) -> str | None:
    """A path by the rules of the WHATWG's URL canonicalisation, as Envoy has them; None if it holds a NUL."""
    out: list[str] = []
    invalid_percent = -3
    """Where a `%` stands in `out` that begins no escape: what is unescaped behind it may not complete one."""
    at = 0
    while at < len(path):
        dot = _DOT.match(path, at)
        char = path[at]
        if dot is not None:
            at, kind = _after_dot(path, dot.end()) if out and out[-1] == "/" else (dot.end(), "name")
            if kind == "name":
                out.append(".")
            elif kind == "up":
                _back(out)
                invalid_percent = invalid_percent if invalid_percent < len(out) else -3
        elif char in "/\\":
            out.append("/")
            at += 1
        elif char == "%":
            digits = path[at + 1 : at + 3]
            if len(digits) == 2 and set(digits) <= _HEX:
                value = chr(int(digits, 16))
                if value == "\x00":
                    return None
                at += 3
                if value in _UNRESERVED:
                    out.append(value)
                    _keep_apart(out, invalid_percent, path[at : at + 1])
                else:
                    out.extend(("%", *digits))
            else:
                invalid_percent = len(out)
                out.append("%")
                at += 1
        else:
            out.append(f"%{ord(char):02X}" if char in _ESCAPED_ALWAYS else char)
            at += 1
    return "".join(out)


def _after_dot(path: str, at: int) -> tuple[int, Literal["name", "same", "up"]]:
    """What a dot behind a slash means, and where the path goes on."""
    if at == len(path):
        return at, "same"
    if path[at] in "/\\":
        return at + 1, "same"
    second = _DOT.match(path, at)
    if second is not None:
        if second.end() == len(path):
            return second.end(), "up"
        if path[second.end()] in "/\\":
            return second.end() + 1, "up"
    return at, "name"


def _back(out: list[str]) -> None:
    """Drop the last segment of a path that ends in a slash."""
    if len(out) > 1:
        out.pop()
        while len(out) > 1 and out[-1] != "/":
            out.pop()


def _keep_apart(out: list[str], percent: int, following: str) -> None:
    """Escape a lone `%` if what was unescaped behind it (and the character that follows) would complete it."""
    behind = out[percent + 1 :] if percent >= 0 else []
    if len(behind) == 1:
        behind.append(following or "-")
    if len(behind) == 2 and set(behind) <= _HEX:
        out[percent + 1 : percent + 1] = "25"
