"""`symstride advise`."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    files: Annotated[
        list[str], typer.Argument(help="reference trajectories (H5MD) of one system, or 'pattern*.h5'")
    ],
    stride_fs: Annotated[float | None, typer.Option(min=0.01, help="a stride to judge")] = None,
    out: Annotated[Path, typer.Option(help="directory for advise.json and advise.png")] = Path("advise"),
) -> None:
    """Which strides a system's vibrations allow, and at which of them learning errors heat."""
    import json
    from glob import glob

    from rich.console import Console
    from rich.table import Table

    from symstride.data import h5md
    from symstride.data.files import replacing
    from symstride.measure.advice import Advice
    from symstride.measure.advice_plot import draw

    paths = [path for pattern in files for path in sorted(glob(pattern)) or [pattern]]
    advice = Advice.of([h5md.read(Path(path)) for path in paths])
    record = advice.record()
    console = Console()
    table = Table("map", "caustic", "Picard up to", "use up to", "gaps (heating)", caption="strides in fs")
    for row in record["maps"]:
        picard = "–" if row["picard_fs"] is None else f"{row['picard_fs']:.1f}"
        gaps = ", ".join(f"{h:.3g} ({float(advice.absorption.heating(h)):.2f})" for h in row["gaps_fs"][-3:])
        edge = f"{row['caustic_fs']:.1f}"
        if row["map"] == "velocity Verlet":
            edge, gaps = f"unstable at {edge}", "learns no map"
        table.add_row(row["map"], edge, picard, f"{row['usable_fs']:.1f}", gaps or "–")
    console.print(table)
    console.print(
        f"fastest mode {advice.fastest:.0f} cm⁻¹ (resolution {advice.spectrum.resolution:.0f}); learning "
        f"errors heat less than a tenth of white noise up to {advice.quiet_fs:.3g} fs",
        highlight=False,
    )
    if stride_fs is not None:
        record["chosen"] = _judged(advice, stride_fs)
        console.print(record["chosen"]["verdict"], highlight=False)
    with replacing(out / "advise.json") as file:
        file.write((json.dumps(record, indent=1) + "\n").encode())
    draw(advice, out / "advise.png", stride_fs)
    console.print(f"{out / 'advise.json'}, {out / 'advise.png'}", highlight=False)


def _judged(advice, stride_fs: float) -> dict:
    """A stride's index, the maps it is within reach of, and a sentence."""
    from symstride.measure.advice import MAPS

    heating = float(advice.absorption.heating(stride_fs))
    reached = [name for name, reach in MAPS.items() if stride_fs <= advice.usable_fs(reach)]
    resonance = advice.resonance(stride_fs)
    verdict = str(resonance) if resonance else f"{stride_fs:g} fs: heating {heating:.2f}, on no resonance"
    verdict += f"; within reach of {'; '.join(reached) or 'no map here'}"
    return {"stride_fs": stride_fs, "heating": heating, "maps": reached, "verdict": verdict}
