"""What several experiments share: the methods compared, with their colours, and where results go."""

import json
from pathlib import Path

from matplotlib.figure import Figure

from symstride.measure.machine import document

RESULTS = Path(__file__).parent / "results"
CORRECTIONS = (1, 2, 4, 8)
COLORS = {
    "reference": "0.5",
    "direct": "C3",
    "corrected-1": "#e8a33d",
    "corrected-2": "#c9b44a",
    "corrected-4": "#7fb069",
    "corrected-8": "#3a9188",
    "s3": "C0",
    "explicit": "C4",
}


def keep(name: str, rows: list[dict], figure: Figure | None = None, folder: Path = RESULTS) -> None:
    """As NAME.json and NAME.png. Raises ValueError for a number that JSON has not: NaN and infinity."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document(rows, threads=1), indent=1, ensure_ascii=False, allow_nan=False)
    (folder / f"{name}.json").write_text(text + "\n")
    if figure:
        figure.savefig(folder / f"{name}.png", dpi=120)
