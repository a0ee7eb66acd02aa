"""`symstride export`."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    model: Annotated[Path, typer.Argument(help="a trained model, .safetensors")],
    out: Annotated[Path, typer.Argument(help="a zip file")],
    stride_fs: Annotated[float | None, typer.Option(help="the model's longest by default")] = None,
) -> None:
    """Write a model as a program that needs jax and flatbuffers alone, for other codes."""
    from symstride.export import export_model

    about = export_model(model, out, stride_fs)
    typer.echo(
        f"{out}: {about['kind']} map of {', '.join(about['elements'])}, {about['stride_fs']:g} fs, cutoff "
        f"{about['cutoff']:g} Å; examples/portable.py shows its use"
    )
