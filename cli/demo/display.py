"""How the demo looks: a live list of checks on a terminal, plain lines elsewhere, on standard error under `--json`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from cli.demo.report import DemoCheck
from cli.terminal import output
from shared.io.visible_text import visible

if TYPE_CHECKING:
    from rich.console import Console


class Display(Protocol):
    """What the story tells while it happens."""

    def act(self, text: str) -> None:
        """A new act begins: a heading."""
        ...

    def doing(self, text: str) -> None:
        """What is happening right now."""
        ...

    def checked(self, check: DemoCheck) -> None:
        """A check has its result."""
        ...

    def close(self) -> None:
        """The end; the terminal is as it was."""
        ...


class LineDisplay:
    """One line an event, for logs and pipes."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._write = say
        self._began = time.monotonic()

    def _say(self, text: str) -> None:
        self._write(f"{time.monotonic() - self._began:6.1f} s  {text}")

    def act(self, text: str) -> None:
        """Print the heading."""
        self._say(f"== {text}")

    def doing(self, text: str) -> None:
        """Print what happens."""
        self._say(f"   {text}")

    def checked(self, check: DemoCheck) -> None:
        """Print the result."""
        self._say(f"   {'held  ' if check.held else 'BROKEN'} {check.name}: {number(check)}{why(check)}")

    def close(self) -> None:
        """Nothing to put back."""


class LiveDisplay:
    """A list that grows, with a line below it that says what is happening."""

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive
        from rich.spinner import Spinner

        self._console = console or Console()
        self._spinner = Spinner("dots", text="starting")
        self._began = time.monotonic()
        self._live = RichLive(self._spinner, console=self._console, refresh_per_second=8, transient=True)
        self._live.start()

    def act(self, text: str) -> None:
        """A bold heading above the live line."""
        self._console.print(f"\n[bold]{_plain(text)}[/bold]")

    def doing(self, text: str) -> None:
        """Change the live line."""
        self._spinner.update(text=f"{time.monotonic() - self._began:5.1f} s  {_plain(text)}")

    def checked(self, check: DemoCheck) -> None:
        """A tick or a cross, the claim, the figure."""
        mark = "[green]✓[/green]" if check.held else "[red]✗[/red]"
        figure = f"[cyan]{_plain(number(check))}[/cyan]"
        self._console.print(f"  {mark} {_plain(check.name)}  {figure}", highlight=False)
        if why(check):
            self._console.print(f"    [dim]{_plain(why(check).removeprefix(': '))}[/dim]", highlight=False)

    def close(self) -> None:
        """Stop drawing."""
        self._live.stop()


def _plain(text: str) -> str:
    """For rich: nothing in it is markup, or moves the terminal."""
    from rich.markup import escape

    return escape(visible(text, most=output.LONGEST_LINE))


def number(check: DemoCheck) -> str:
    """The figure and its unit."""
    return f"{check.figure:g} {check.unit}"


def why(check: DemoCheck) -> str:
    """The detail, if there is one."""
    return f": {check.detail}" if check.detail else ""


def choose(*, json: bool) -> Display:
    """The view that fits where the output goes."""
    if json:
        return LineDisplay(output.note)
    return LiveDisplay() if output.on_terminal() else LineDisplay(lambda text: output.line(text, flush=True))
