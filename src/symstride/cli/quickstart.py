"""`symstride quickstart`."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    out: Annotated[Path, typer.Option(help="a directory; a second call goes on there")] = Path("quickstart"),
) -> None:
    """All of it on aluminium, from nothing to the report, in about ten minutes on two cores."""
    from rich.console import Console
    from rich.table import Table

    from symstride.quickstart import quickstart

    console = Console()
    rows = quickstart(out, lambda text: console.print(text, highlight=False, markup=False))
    table = Table("map", "stride", "error p/q", "gradients/ps", "wall s/ps", "drift meV/atom/ps", "verdict")
    for r in rows:
        error = (
            f"{100 * r['momentum_error']:.2f}/{100 * r['position_error']:.2f} %"
            if r["momentum_error"] is not None
            else "–"
        )
        drift = f"{r['drift']:.3f} ± {r['drift_stderr']:.3f}" if r["drift"] is not None else "–"
        figures = (f"{r['gradients_per_ps']:.1f}", f"{r['wall_s_per_ps']:.3f}", drift)
        table.add_row(r["map"], f"{r['stride_fs']:g} fs", error, *figures, r["verdict"])
    console.print(table)
    console.print("reports:", *(f"{out / r['map']}/report.html" for r in rows))
