"""The progress bar of the commands."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress


def step_bar(what: str) -> "Progress":
    """A bar that counts steps and tells the time left; to be entered as a context."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("steps,"))
    return Progress(*columns, TimeRemainingColumn(), TextColumn("left"))
