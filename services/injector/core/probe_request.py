"""Computes the request that the kubelet sends for an `httpGet` probe: target, `Host` and headers.

The proxy sends this request instead of the kubelet, so it must be the same to the byte. The kubelet parses the probe's
path with Go's `net/url`, and uses it unparsed if that fails (`formatURL` in kubernetes/pkg/probe/http/request.go); Go
then writes the request's target from the parsed URL.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from shared.errors import BadInputError

MAX_TARGET = 4096
"""Bytes of a request's target; servers refuse request lines of more than about 8 KiB."""
MAX_HEADERS = 32
MAX_HEADER_BYTES = 8192
"""Bytes of all names and values of one probe's headers."""

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_KEPT_IN_PATH = re.compile(r"(?:[A-Za-z0-9$&+,/:;=@._~!'()*\[\]-]|%[0-9A-Fa-f]{2})*")
"""A path that Go leaves as it is written (`validEncoded`); Go encodes any other path again."""
_AUTHORITY = re.compile(
    r"""(?:[A-Za-z0-9._~!$&'()*+,;=:-]*@)?(?:\[[0-9A-Fa-f:.]+\]|(?:[A-Za-z0-9._~!$&'()*+,;=<>"-]|[^\x00-\x7f])*)(?::[0-9]*)?"""
)
"""The kubelet replaces it by the pod's address."""
_SAFE_IN_PATH = "$&+,/:;=@-._~"
_SAFE_IN_QUERY = "".join(map(chr, range(0x21, 0x7F)))
NEVER_SENT = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "http2-settings",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers that control a connection or a body; the proxy sets its own."""


def target(path: str, *, about: str) -> str:
    """Return the request's target, path and query, for a probe's `path`. Raises `BadInputError` if it is too long."""
    found = _parsed(path)
    if found is None:
        # Go cannot parse it, so all of it is the path.
        found = quote(path if path.startswith("/") else f"/{path}", safe=_SAFE_IN_PATH)
    if len(found) > MAX_TARGET:
        raise BadInputError(
            "inject/probe-path", f"has a path of {len(found)} bytes; at most {MAX_TARGET} can be probed", about=about
        )
    return found


def headers(action: Mapping[str, Any], *, about: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return the `Host` that the probe declares (empty if none), and its other headers with names in lower case.

    Raises `BadInputError` for a header that cannot be sent.
    """
    listed = list(_listed(action.get("httpHeaders"), about=about))
    if len(listed) > MAX_HEADERS or sum(len(name) + len(value.encode()) for name, value in listed) > MAX_HEADER_BYTES:
        raise BadInputError(
            "inject/probe-header",
            f"has more than {MAX_HEADERS} headers or {MAX_HEADER_BYTES} bytes of them; give it fewer",
            about=about,
        )
    host = next((value for name, value in listed if name == "host"), "")
    others = ((name, value) for name, value in listed if name != "host" and name not in NEVER_SENT)
    return host, tuple(others)


def not_sent(action: Mapping[str, Any], *, about: str) -> Sequence[str]:
    """Return the names of the headers that the probe declares but the proxy does not send."""
    return sorted({name for name, _ in _listed(action.get("httpHeaders"), about=about)} & NEVER_SENT)


def _listed(given: Any, *, about: str) -> Iterable[tuple[str, str]]:
    for each in given if isinstance(given, list) else []:
        header: Mapping[str, Any] = each if isinstance(each, dict) else {}
        name, value = header.get("name"), header.get("value", "")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise BadInputError("inject/probe-header", f"names a header {str(name)[:60]!r}: it is none", about=about)
        if not isinstance(value, str) or _CONTROL.search(value.strip(" \t").replace("\t", " ")):
            raise BadInputError("inject/probe-header", f"has control characters in header {name}", about=about)
        yield name.lower(), value.strip(" \t")


def _parsed(text: str) -> str | None:
    """Return the target that Go derives from a URL; `None` if Go cannot parse it."""
    url, _, fragment = text.partition("#")
    if url == "*":
        return "/*"
    scheme = _SCHEME.match(url)
    hierarchy, question, query = url[scheme.end() if scheme else 0 :].partition("?")
    path = _path(hierarchy, absolute=scheme is not None)
    if path is None or _CONTROL.search(url) or _PERCENT.search(fragment) or _PERCENT.search(path):
        return None
    if not _KEPT_IN_PATH.fullmatch(path):
        path = quote(unquote_to_bytes(path), safe=_SAFE_IN_PATH)
    slash = "" if path.startswith("/") else "/"
    return f"{slash}{path}{question}{quote(query, safe=_SAFE_IN_QUERY)}"


def _path(hierarchy: str, *, absolute: bool) -> str | None:
    """Return the path in the part between scheme and query; `None` if it contains none."""
    if absolute and hierarchy and not hierarchy.startswith("/"):
        return None
    if not hierarchy.startswith("/") and ":" in hierarchy.partition("/")[0]:
        return None
    # Without a scheme, three slashes are no authority.
    if not hierarchy.startswith("//") or (hierarchy.startswith("///") and not absolute):
        return hierarchy
    authority, slash, path = hierarchy[2:].partition("/")
    return slash + path if _AUTHORITY.fullmatch(authority) else None
