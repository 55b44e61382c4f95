"""The results of the demo: checks with a figure each, and the object that `--json` prints."""

from __future__ import annotations

import msgspec


class DemoCheck(msgspec.Struct, frozen=True):
    """One claim, whether it held, and what was measured."""

    name: str
    held: bool
    figure: float
    unit: str
    detail: str = ""
    """Why it did not hold, or a remark."""


class DemoReport(msgspec.Struct):
    """The results of all checks."""

    seconds: float = 0.0
    checks: list[DemoCheck] = []

    @property
    def held(self) -> bool:
        """Whether there was at least one check and all held."""
        return bool(self.checks) and all(check.held for check in self.checks)

    def as_json(self) -> bytes:
        """`{"held", "seconds", "checks": [{"name", "held", "figure", "unit"}]}`; a failed check also has its reason."""
        return msgspec.json.encode(
            {
                "held": self.held,
                "seconds": round(self.seconds, 1),
                "checks": [
                    {
                        "name": check.name,
                        "held": check.held,
                        "figure": check.figure,
                        "unit": check.unit,
                        **({} if check.held else {"why": check.detail}),
                    }
                    for check in self.checks
                ],
            }
        )
