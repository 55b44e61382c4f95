"""The authenticated user of a request, as authorization, admission and reviews need it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec


class UserInfo(msgspec.Struct, frozen=True):
    """The authenticated user of a request."""

    username: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: Mapping[str, tuple[str, ...]] = {}

    def info(self) -> dict[str, Any]:
        """As `userInfo` and `status.user` spell it."""
        info: dict[str, Any] = {"username": self.username}
        if self.uid:
            info["uid"] = self.uid
        if self.groups:
            info["groups"] = list(self.groups)
        if self.extra:
            info["extra"] = {key: list(values) for key, values in self.extra.items()}
        return info
