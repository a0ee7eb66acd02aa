"""What several experiments share: the methods compared, with their colours, comparisons of actions, and where
results go."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
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
    """As NAME.json and NAME.png."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_finite(document(rows, threads=1)), indent=1, ensure_ascii=False)
    (folder / f"{name}.json").write_text(text + "\n")
    if figure:
        figure.savefig(folder / f"{name}.png", dpi=120)


def comparison(measured: np.ndarray, predicted: np.ndarray) -> dict:
    """Correlation, slope, and the rms of what a constant does not account for over that of the measured."""
    difference = predicted - measured
    return {
        "correlation": float(np.corrcoef(measured, predicted)[0, 1]),
        "slope": float(np.polyfit(measured, predicted, 1)[0]),
        "rms_error": float(difference.std() / measured.std()),
    }


def _finite(x: Any) -> Any:
    """With null where JSON has no number: what was not solved, or lost altogether."""
    if isinstance(x, dict):
        return {key: _finite(value) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return [_finite(value) for value in x]
    return None if isinstance(x, float) and not math.isfinite(x) else x
