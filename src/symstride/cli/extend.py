"""`symstride extend`."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    config: Annotated[Path, typer.Argument(help="YAML: model, run, sample, output")],
) -> None:
    """Extend a model to where its runs go: alarm, true trajectories from there, training; until quiet."""
    from symstride.data.config import load_config
    from symstride.errors import SimulationError
    from symstride.extend.config import ExtendConfig
    from symstride.extend.record import describe
    from symstride.extend.rounds import extend

    settings = load_config(config, ExtendConfig)
    record = extend(settings, typer.echo)
    outcome = f"{settings.output}: {describe(record)}; {settings.output / 'model.safetensors'}"
    if record["status"] != "quiet":
        raise SimulationError(f"{outcome} is the last; with more rounds the same command goes on")
    typer.echo(outcome)
