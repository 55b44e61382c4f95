"""Displays the demo: a live list of checks on a terminal, plain lines elsewhere, on standard error under `--json`."""

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
    """Shows the demo's progress."""

    def act(self, text: str) -> None:
        """Show the heading of a new act."""
        ...

    def doing(self, text: str) -> None:
        """Show the current step."""
        ...

    def checked(self, check: DemoCheck) -> None:
        """Show the result of a check."""
        ...

    def close(self) -> None:
        """Stop, and restore the terminal."""
        ...


class LineDisplay:
    """Prints a line for each step and result, for logs and pipes."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._began = time.monotonic()

    def _print(self, text: str) -> None:
        self._write(f"{time.monotonic() - self._began:6.1f} s  {text}")

    def act(self, text: str) -> None:
        """Print the heading."""
        self._print(f"== {text}")

    def doing(self, text: str) -> None:
        """Print the current step."""
        self._print(f"   {text}")

    def checked(self, check: DemoCheck) -> None:
        """Print the result."""
        self._print(f"   {'held  ' if check.held else 'BROKEN'} {check.name}: {number(check)}{why(check)}")

    def close(self) -> None:
        """Do nothing: the terminal was not changed."""


class LiveDisplay:
    """A growing list of results, with a line below it that shows the current step."""

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
        """Print a bold heading above the live line."""
        self._console.print(f"\n[bold]{_plain(text)}[/bold]")

    def doing(self, text: str) -> None:
        """Change the live line."""
        self._spinner.update(text=f"{time.monotonic() - self._began:5.1f} s  {_plain(text)}")

    def checked(self, check: DemoCheck) -> None:
        """Print a tick or a cross, the claim, the figure."""
        mark = "[green]✓[/green]" if check.held else "[red]✗[/red]"
        figure = f"[cyan]{_plain(number(check))}[/cyan]"
        self._console.print(f"  {mark} {_plain(check.name)}  {figure}", highlight=False)
        if why(check):
            self._console.print(f"    [dim]{_plain(why(check).removeprefix(': '))}[/dim]", highlight=False)

    def close(self) -> None:
        """Stop drawing."""
        self._live.stop()


def _plain(text: str) -> str:
    """A text for rich without markup or control characters."""
    from rich.markup import escape

    return escape(visible(text, most=output.LONGEST_LINE))


def number(check: DemoCheck) -> str:
    """The figure and its unit."""
    return f"{check.figure:g} {check.unit}"


def why(check: DemoCheck) -> str:
    """The detail, if there is one."""
    return f": {check.detail}" if check.detail else ""


def choose(*, json: bool) -> Display:
    """The display that suits standard output."""
    if json:
        return LineDisplay(output.note)
    return LiveDisplay() if output.on_terminal() else LineDisplay(lambda text: output.line(text, flush=True))
