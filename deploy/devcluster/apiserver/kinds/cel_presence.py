"""Evaluates CEL rules (`x-kubernetes-validations`) about the presence of fields. Pure.

Supported is `has(self.a) || (has(self.b) && has(self.c))` and similar: Kubernetes allows no `anyOf` at the root of a
schema with a status, so definitions use such rules instead. All other rules are stored and not evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_TOKEN = re.compile(r"\s*(?:has\(self\.(\w+)\)|(&&|\|\||[()]))")


def holds(rule: str, value: Mapping[str, Any]) -> bool:
    """True if the rule holds for an object, or if the rule is not about presence."""
    tokens: list[bool | str] = []
    end = 0
    text = rule.strip()
    while end < len(text):
        found = _TOKEN.match(text, end)
        if found is None:
            return True
        tokens.append(found[1] in value if found[1] else found[2])
        end = found.end()
    answer, rest = _either(tokens)
    return answer if not rest else True


def _either(tokens: list[bool | str]) -> tuple[bool, list[bool | str]]:
    answer, tokens = _both(tokens)
    while tokens and tokens[0] == "||":
        right, tokens = _both(tokens[1:])
        answer = answer or right
    return answer, tokens


def _both(tokens: list[bool | str]) -> tuple[bool, list[bool | str]]:
    answer, tokens = _one(tokens)
    while tokens and tokens[0] == "&&":
        right, tokens = _one(tokens[1:])
        answer = answer and right
    return answer, tokens


def _one(tokens: list[bool | str]) -> tuple[bool, list[bool | str]]:
    if tokens and tokens[0] == "(":
        answer, tokens = _either(tokens[1:])
        return answer, tokens[1:] if tokens and tokens[0] == ")" else ["?"]
    if tokens and isinstance(tokens[0], bool):
        return tokens[0], tokens[1:]
    return True, ["?"]
