"""What a person sees while a stack starts and runs: a line per part, and a bar under them for what takes long."""

import json
import os
import sys

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

NAME_WIDTH = 13
PLAIN_STEP = 25
"""Without a terminal a line is printed for every so many per cent."""


class UntilNobodyReads(Console):
    """Falls silent when its reader is gone (`make run | head`); the shop goes on. Rich would end the process."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Terminal:
    """Draws on a terminal, prints plain lines elsewhere."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or UntilNobodyReads(highlight=False, soft_wrap=True)
        self._bars: dict[str, TaskID] = {}
        self._said: dict[str, tuple[str, int]] = {}
        self._progress: Progress | None = None

    def line(self, text: str = "") -> None:
        self.console.print(Text(text))

    def ready(self, name: str, seconds: float, address: str) -> None:
        self._clear(name)
        self.line(f"  {name:{NAME_WIDTH}} ready    {seconds:5.1f} s   {address}".rstrip())

    def done(self, name: str, seconds: float, result: str) -> None:
        self._clear(name)
        self.line(f"  {name:{NAME_WIDTH}} {result}   {seconds:.1f} s")

    def trouble(self, name: str, text: str) -> None:
        self._clear(name)
        self.console.print(Text(f"  {name:{NAME_WIDTH}} {text}", style="yellow"))

    def progress(self, name: str, line: str) -> None:
        """`line` is the JSON a command printed: what it does, and how much of what is done."""
        try:
            said = json.loads(line)
            step, done, total = str(said["step"]), float(said.get("done", 0)), float(said.get("total", 0))
        except (ValueError, KeyError):
            return
        if self.console.is_terminal:
            self._bar(name, step, done, total)
            return
        share = int(100 * done / total) if total else 0
        last_step, last_share = self._said.get(name, ("", 0))
        if step != last_step or share >= last_share + PLAIN_STEP:
            self._said[name] = (step, share)
            self.line(f"  {name:{NAME_WIDTH}} {step}{_amount(done, total)}")

    def close(self) -> None:
        """Takes the bars away."""
        if self._progress:
            self._progress.stop()
            self._progress = None
            self._bars.clear()

    def _bar(self, name: str, step: str, done: float, total: float) -> None:
        if self._progress is None:
            self._progress = Progress(
                TextColumn(f"  {{task.fields[part]:{NAME_WIDTH}}} {{task.description}}{{task.fields[amount]}}"),
                BarColumn(bar_width=20),
                console=self.console,
                transient=True,
                auto_refresh=False,  # which would be a thread, and the supervisor forks
            )
            self._progress.start()
        if name not in self._bars:
            self._bars[name] = self._progress.add_task(step, part=name, amount="")
        self._progress.update(
            self._bars[name], description=step, completed=done, total=total or None, amount=_amount(done, total)
        )
        self._progress.refresh()

    def _clear(self, name: str) -> None:
        if self._progress and (bar := self._bars.pop(name, None)) is not None:
            self._progress.remove_task(bar)
            if not self._bars:
                self.close()


def _amount(done: float, total: float) -> str:
    return f"  {100 * done / total:3.0f} %  {done:.0f}/{total:.0f} MB" if total else ""
