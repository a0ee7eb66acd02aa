"""`symstride train`."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    config: Annotated[Path, typer.Argument(help="YAML: data, map, schedule, output")],
) -> None:
    """Learn a map from reference trajectories; run again to go on after a stop."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from symstride.data.config import load_config
    from symstride.train.config import TrainConfig
    from symstride.train.loop import train
    from symstride.train.plots import describe, learning_curve

    settings = load_config(config, TrainConfig)
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps,"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, TextColumn("left")) as bar:
        task = bar.add_task("", total=None)

        def report(step: int, total: int, entry: dict | None) -> None:
            bar.update(task, completed=step, total=total)
            if entry:
                bar.console.print(describe(entry))

        model = train(settings, report)
    learning_curve(model.provenance["history"], settings.output.with_suffix(".png"))
    typer.echo(f"{settings.output}: {describe(model.provenance['validation'])}")
