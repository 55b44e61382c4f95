"""Evaluates Envoy's matchers on a request and an identity: texts, headers, paths, and access rules.

Only matchers that the compiler renders are understood; any other raises `UnknownConfigurationError`, because a matcher
that is skipped could make a refusal look like a grant.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import re2
from envoy.config.rbac.v3.rbac_pb2 import RBAC, Permission, Principal
from envoy.config.route.v3.route_components_pb2 import HeaderMatcher
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import SubjectAltNameMatcher
from envoy.type.matcher.v3.regex_pb2 import RegexMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher

from cli.calls.request_head import without_parameters


def _bytes() -> re2.Options:
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    return options


_BYTES = _bytes()


class UnknownConfigurationError(Exception):
    """A resource holds something that this build does not understand."""


class HttpRequest(msgspec.Struct, frozen=True):
    """The part of an HTTP request that policy can match."""

    method: str = "GET"
    path: str = "/"
    """With its query string, if it has one. As a sidecar has read it: empty for CONNECT."""
    headers: tuple[tuple[str, str], ...] = ()
    """Names in any case. `host` is the authority."""

    def values(self, name: str) -> list[str]:
        """A header's values, one for each line that has it, pseudo-headers included."""
        if name == ":method":
            return [self.method]
        if name == ":path":
            return [self.path] if self.path else []
        wanted = "host" if name == ":authority" else name.lower()
        found = [value for key, value in self.headers if key.lower() == wanted]
        # These are one field to Envoy, however many lines they came in.
        return [",".join(found)] if found and wanted in _JOINED else found


def target_of(method: str, path: str) -> str:
    """The target of a request whose path a user typed, maybe without its first slash.

    A target that is no path stays as it is: the authority of CONNECT, `OPTIONS *`, a whole URL.
    """
    whole = path.lower().startswith(("http://", "https://"))
    if path.startswith("/") or whole or method == "CONNECT" or (method, path) == ("OPTIONS", "*"):
        return path
    return f"/{path}"


_JOINED = frozenset(
    {
        *("accept", "accept-encoding", "access-control-request-headers", "access-control-request-method"),
        *("authorization", "cache-control", "content-encoding", "content-type", "expect", "grpc-accept-encoding"),
        *("grpc-timeout", "host", "if-match", "if-modified-since", "if-none-match", "if-range", "origin", "pragma"),
        *("referer", "user-agent", "via", "x-client-trace-id", "x-forwarded-for", "x-forwarded-host"),
        *("x-forwarded-port", "x-forwarded-proto", "x-request-id"),
    }
)
"""Headers whose lines Envoy joins by commas; it matches the lines of any other one by one."""


def matched_path(path: str) -> str:
    """The path that expressions are matched with: no query string, no `;` parameters."""
    return without_parameters(path.partition("?")[0])


def _expression(matcher: RegexMatcher, text: str) -> bool:
    # Envoy reads expressions and requests byte by byte.
    return re2.compile(matcher.regex.encode(), _BYTES).fullmatch(text.encode()) is not None


def text_matches(matcher: StringMatcher, text: str) -> bool:
    """Whether a text matches a matcher."""
    match matcher.WhichOneof("match_pattern"):
        case "exact":
            return text == matcher.exact
        case "prefix":
            return text.startswith(matcher.prefix)
        case "safe_regex":
            return _expression(matcher.safe_regex, text)
        case other:
            raise UnknownConfigurationError(f"a text matcher of kind {other}")


def header_matches(matcher: HeaderMatcher, request: HttpRequest) -> bool:
    """Whether a request has a matching header."""
    if matcher.WhichOneof("header_match_specifier") != "string_match" or matcher.invert_match:
        raise UnknownConfigurationError(f"the matcher of header {matcher.name}")
    return any(text_matches(matcher.string_match, value) for value in request.values(matcher.name))


def path_matches(regex: RegexMatcher, request: HttpRequest) -> bool:
    """Whether the path matches an expression of a route."""
    return bool(request.path) and _expression(regex, matched_path(request.path))


def _permitted(permission: Permission, request: HttpRequest | None) -> bool:
    kind = permission.WhichOneof("rule")
    if kind == "any":
        return permission.any
    if kind == "and_rules":
        return all(_permitted(rule, request) for rule in permission.and_rules.rules)
    if request is None:
        raise UnknownConfigurationError(f"a rule about {kind} for connections")
    if kind == "url_path":
        return bool(request.path) and text_matches(permission.url_path.path, matched_path(request.path))
    if kind == "header":
        return header_matches(permission.header, request)
    raise UnknownConfigurationError(f"a permission of kind {kind}")


def _is(principal: Principal, identity: str) -> bool:
    if principal.WhichOneof("identifier") != "authenticated":
        raise UnknownConfigurationError(f"a principal of kind {principal.WhichOneof('identifier')}")
    if not principal.authenticated.HasField("principal_name"):
        return True
    return text_matches(principal.authenticated.principal_name, identity)


def allowing(rules: RBAC, identity: str, request: HttpRequest | None) -> str | None:
    """Name of the first policy that allows a request (or, without one, a connection); None if it is refused."""
    if rules.action != RBAC.Action.ALLOW:
        raise UnknownConfigurationError("rules that do not allow")
    for name in sorted(rules.policies):
        policy = rules.policies[name]
        if any(_permitted(permission, request) for permission in policy.permissions) and any(
            _is(principal, identity) for principal in policy.principals
        ):
            return name
    return None


def trusted(matchers: Sequence[SubjectAltNameMatcher], identity: str) -> bool:
    """Whether the TLS handshake accepts a peer with this identity; without matchers Envoy would accept every peer."""
    if not matchers:
        raise UnknownConfigurationError("a validation context without names")
    if any(one.san_type != SubjectAltNameMatcher.SanType.URI for one in matchers):
        raise UnknownConfigurationError("a name that is no URI")
    return any(text_matches(one.matcher, identity) for one in matchers)
