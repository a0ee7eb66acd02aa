"""A picture of the advice: what vibrates and absorbs, and how much errors heat at each stride."""

from pathlib import Path

import numpy as np

from symstride.data.files import replacing
from symstride.measure.advice import MAPS, QUANTA, Advice, absorption
from symstride.measure.caustic import in_stride
from symstride.measure.spectra import WAVENUMBER_FS


def draw(advice: Advice, path: Path, stride_fs: float | None = None) -> None:
    """Writes a PNG: the spectrum above, the heating index against the stride below, `stride_fs` marked."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7), layout="constrained")
    above, below = figure.subplots(2)
    curve, errors = advice.spectrum.curve, advice.absorption
    total = np.cumsum(errors.power)
    right = errors.x[np.searchsorted(total, 0.98 * total[-1])]
    above.fill_between(curve.x, curve.value / curve.value.max(), color="C0", alpha=0.4, lw=0)
    above.plot(curve.x, curve.value / curve.value.max(), "C0", label="density of states")
    above.plot(errors.x, errors.power / errors.power.max(), "C3", label="absorption of a rough error")
    above.set(xlabel="wavenumber (cm⁻¹)", xlim=(0, right), ylim=(0, 1.05), yticks=[])
    above.legend(fontsize=8)
    top = above.twiny()
    strides = np.array([h for h in advice.strides_fs if _turned(h) < right])
    places = np.linspace(0.2, 0.9, 8) * right
    marks = sorted({float(strides[np.argmin(np.abs(_turned(strides) - at))]) for at in places})
    top.set(xlim=(0, right), xlabel="stride h (fs) whose 2π/h is there")
    top.set_xticks([_turned(h) for h in marks], [f"{h:.3g}" for h in marks])

    fine = np.linspace(0.02 * advice.longest_fs, 1.05 * advice.longest_fs, 500)
    for n, name in enumerate(QUANTA, 1):
        label = f"{name} quantum" if n == 1 else f"{name} quanta"
        below.plot(fine, absorption(advice.spectrum, n).heating(fine), lw=0.8, color=f"C{n + 3}", label=label)
    heating = errors.heating(fine)
    below.plot(fine, heating, "k", lw=1.8, label="all")
    below.axhline(1.0, color="gray", ls=":", lw=1)
    below.plot(advice.gaps_fs, errors.heating(advice.gaps_fs), "o", color="C2", label="gaps")
    height = max(2.0, 1.1 * float(heating.max()))
    caustics = {reach.caustic: name for name, reach in reversed(MAPS.items())}  # S³'s once
    for theta, name in caustics.items():
        at = in_stride(theta, advice.fastest)
        if at < fine[-1]:
            below.axvline(at, color="C1", lw=1.2)
            words = "Verlet unstable" if name == "velocity Verlet" else f"caustic, {name}"
            below.text(at, 0.97 * height, words, rotation=90, va="top", ha="right", fontsize=8, color="C1")
    if stride_fs is not None:
        below.axvline(stride_fs, color="C3", ls="--", lw=1.2, label=f"{stride_fs:g} fs")
    below.set(xlabel="stride (fs)", ylabel="heating over white noise", xlim=(0, fine[-1]), ylim=(0, height))
    figure.legend(*below.get_legend_handles_labels(), loc="outside lower center", fontsize=8, ncols=6)
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=150)


def _turned(stride_fs):
    """2π/h in cm⁻¹."""
    return 1 / (stride_fs * WAVENUMBER_FS)
