"""How a sidecar reads a request before policy does: its path, what it refuses, and the headers it does not believe.

Policy and application must read the same request, so what a sidecar normalises it also forwards normalised, and
whatever two parsers could still read in two ways is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from envoy.config.common.mutation_rules.v3.mutation_rules_pb2 import HeaderMutation
from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.config.core.v3.protocol_pb2 import Http2ProtocolOptions
from envoy.config.route.v3.route_components_pb2 import HeaderMatcher
from envoy.extensions.filters.http.header_mutation.v3 import header_mutation_pb2
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
)
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from google.protobuf.any_pb2 import Any
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from services.compiler.render.matchers import expression, quoted
from services.compiler.render.packing import packed
from shared.policy.model import EscapedSlashes

MUTATION = "envoy.filters.http.header_mutation"
MAX_HEADERS = 1_000
"""Headers of one request or answer."""
MAX_HEADERS_KIB = 128
"""Size of the headers of one request or answer together, names included."""
MAX_STREAMS = 256
"""Streams at once on an HTTP/2 connection between sidecars, or to an application; callers open another beyond."""
STREAM_WINDOW = 256 * 1024
"""Bytes of one HTTP/2 stream that are under way, unread: 128 MB/s at 2 ms. A connection has as much for each of its
streams: else a few streams that are not read stop all others of the connection."""

_Action = HttpConnectionManager.PathWithEscapedSlashesAction
_SLASHES: dict[EscapedSlashes, HttpConnectionManager.PathWithEscapedSlashesAction] = {
    "reject": _Action.REJECT_REQUEST,
    "decode": _Action.UNESCAPE_AND_FORWARD,
    "keep": _Action.KEEP_UNCHANGED,
}

# Envoy resolves `.` and `..` between slashes, also when they are escaped once or carry `;` parameters. Left are the
# segments that only a second parser takes for dot segments: escaped and with parameters (`%2e%2e;x`), escaped twice,
# in overlong UTF-8, or beside a slash that is kept escaped.
_SLASH = r"(?:/|\\|%(?:25)*(?:2f|5c)|%c0%af|%c1%9c|%e0%80%af)"
_DOT = r"(?:\.|%(?:25)*2e|%c0%(?:ae|2e)|%e0%80%ae)"
_END = rf"(?:{_SLASH}|[;?]|%(?:25)*(?:[01][0-9a-f]|20|23|3b|3f|7f))"
DOT_SEGMENT = rf"(?i)[^?]*{_SLASH}{_DOT}{{1,2}}(?:{_END}.*)?"
"""A path, with or without its query, in which a dot segment is left after normalisation."""


def _other_than(word: str) -> str:
    """An expression for every text but one: RE2 has no negative look-ahead."""
    differs = [f"{word[:index]}(?:[^{char}].*)?" for index, char in enumerate(word)]
    return "|".join([*differs, f"{word}.+"])


# CGI, WSGI and their heirs take `_`, and some any other character, for `-`.
_DASH = "[^0-9a-z]"
STATEMENTS = "|".join(
    [
        "forwarded",
        f"x{_DASH}(?:envoy{_DASH}.*|original{_DASH}(?:forwarded{_DASH}for|host|uri|url)|real{_DASH}ip|rewrite{_DASH}url)",
        # Not `x-forwarded-client-cert` itself, which this proxy states anew.
        f"x[^-0-9a-z]forwarded(?:{_DASH}.*)?",
        f"x-forwarded(?:[^-0-9a-z].*|-(?:{_other_than('client-cert')}))?",
    ]
)
"""Names of headers by which proxies state how a request reached them; a caller must not state it for them."""


def reads(manager: HttpConnectionManager, slashes: EscapedSlashes) -> None:
    """Let a connection manager read paths and headers as every sidecar does."""
    manager.normalize_path.CopyFrom(BoolValue(value=True))
    manager.merge_slashes = True
    manager.path_with_escaped_slashes_action = _SLASHES[slashes]
    manager.max_request_headers_kb.CopyFrom(UInt32Value(value=MAX_HEADERS_KIB))
    manager.common_http_protocol_options.max_headers_count.CopyFrom(UInt32Value(value=MAX_HEADERS))


def http2(streams: int = MAX_STREAMS) -> Http2ProtocolOptions:
    """HTTP/2 with bounded streams and windows."""
    return Http2ProtocolOptions(
        max_concurrent_streams=UInt32Value(value=streams),
        initial_stream_window_size=UInt32Value(value=STREAM_WINDOW),
        initial_connection_window_size=UInt32Value(value=streams * STREAM_WINDOW),
    )


def other_than(word: str) -> StringMatcher:
    """Every text but a word, in upper or lower case."""
    return StringMatcher(safe_regex=expression(f"(?i){_other_than(word)}"))


def ambiguous() -> HeaderMatcher:
    """Requests whose path still holds a dot segment in some spelling."""
    return HeaderMatcher(name=":path", string_match=StringMatcher(safe_regex=expression(DOT_SEGMENT)))


def forwarded_by(identities: Sequence[str]) -> HeaderMatcher:
    """Requests of these callers, by what this proxy has stated of their certificates."""
    alternatives = "|".join(quoted(identity) for identity in identities)
    return HeaderMatcher(
        name="x-forwarded-client-cert",
        string_match=StringMatcher(safe_regex=expression(f".*;URI=(?:{alternatives})")),
    )


def mutation_filter() -> HttpFilter:
    """The filter that removes headers if the route configures it."""
    return HttpFilter(name=MUTATION, typed_config=packed(header_mutation_pb2.HeaderMutation()))


def _stated(name: str, value: str) -> HeaderMutation:
    return HeaderMutation(
        append=HeaderValueOption(
            header=HeaderValue(key=name, value=value),
            append_action=HeaderValueOption.HeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
        )
    )


def _counted_once(name: str) -> HeaderMutation:
    return HeaderMutation(
        append=HeaderValueOption(
            header=HeaderValue(key=name, value=f"%REQ({name})%"),
            append_action=HeaderValueOption.HeaderAppendAction.OVERWRITE_IF_EXISTS,
            keep_empty_value=True,
        )
    )


def headers_read(named: Collection[str], *, believed: bool) -> Any | None:
    """What is done to a request's headers before policy and application read them; none: nothing.

    Of a header that rules name only the first line is kept: Envoy lets any of the lines meet a rule, and applications
    read the last, or all. Unless the caller is believed, what it states of the request's way is replaced by what this
    proxy knows of it.
    """
    unbelieved = HeaderMutation.RemoveOnMatch(key_matcher=StringMatcher(safe_regex=expression(STATEMENTS)))
    mutations = [_counted_once(name) for name in sorted(named) if name != "host"]
    stated = [
        HeaderMutation(remove_on_match=unbelieved),
        _stated("x-forwarded-for", "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"),
        # What the client spoke to its own sidecar. The TLS between sidecars is no business of the application.
        _stated("x-forwarded-proto", "http"),
    ]
    mutations = mutations if believed else [*stated, *mutations]
    if not mutations:
        return None
    return packed(
        header_mutation_pb2.HeaderMutationPerRoute(mutations=header_mutation_pb2.Mutations(request_mutations=mutations))
    )
