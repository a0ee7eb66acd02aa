"""`symstride import`."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    files: Annotated[list[Path], typer.Argument(help="extxyz, ASE .traj, H5MD or LAMMPS text dumps")],
    out: Annotated[Path, typer.Option(help="directory for the H5MD files")],
    spacing_fs: Annotated[
        float | None,
        typer.Option(min=0, help="time between frames, if the file does not say (extxyz, .traj)"),
    ] = None,
    timestep_fs: Annotated[float | None, typer.Option(min=0, help="timestep of the LAMMPS run")] = None,
    units: Annotated[str | None, typer.Option(help="units of the LAMMPS run: metal or real")] = None,
    types: Annotated[str | None, typer.Option(help="elements of LAMMPS types 1, 2, …, such as Al,O")] = None,
) -> None:
    """Take over your own trajectories, with momenta, as H5MD; nothing is written if one of them is wrong."""
    from symstride.data.importers import import_files

    paths = import_files(
        files,
        out,
        spacing_fs=spacing_fs,
        timestep_fs=timestep_fs,
        units=units,
        types=types.split(",") if types else None,
    )
    for path in paths:
        typer.echo(path)
