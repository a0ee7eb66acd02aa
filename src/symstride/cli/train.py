"""`symstride train`."""

import warnings
from pathlib import Path
from typing import Annotated

import typer

from symstride.cli.progress import step_bar


def command(
    config: Annotated[Path, typer.Argument(help="YAML: data, map, schedule, output")],
) -> None:
    """Learn a map from reference trajectories; run again to go on after a stop."""
    from symstride.data.config import load_config
    from symstride.train.config import TrainConfig
    from symstride.train.loop import train
    from symstride.train.plots import describe, learning_curve

    settings = load_config(config, TrainConfig)
    with step_bar("training") as bar, warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: bar.console.print(f"warning: {message}")
        task = bar.add_task("", total=None)

        def report(step: int, total: int, entry: dict | None) -> None:
            bar.update(task, completed=step, total=total)
            if entry:
                bar.console.print(describe(entry))

        model = train(settings, report)
    learning_curve(model.provenance["history"], settings.output.with_suffix(".png"))
    typer.echo(f"{settings.output}: {describe(model.provenance['validation'])}")
