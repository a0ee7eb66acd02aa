"""A million strides of `symstride run`: energy, temperature, memory and the size of its files, all the way.

    python benchmarks/soak.py [--work DIR] [--strides 1000000]

32 atoms of aluminium at 16 fs in a Langevin bath of 300 K, a frame every 100 strides, a true energy every 100
frames. Memory and files are looked at every five seconds from outside. Writes benchmarks/results/soak.json.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from rows import write

RESULTS = Path(__file__).parent / "results" / "soak.json"
MODEL = Path(__file__).parent.parent / "models" / "aluminium-explicit.safetensors"
STRIDE_FS, EVERY, ENERGIES, TEMPERATURE = 16.0, 100, 100, 300.0
PARTS = 10  # of the run, each with its own figures


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--work", type=Path, default=Path("soak.part"))
    arguments.add_argument("--strides", type=int, default=1_000_000)
    given = arguments.parse_args()
    from ase.build import bulk
    from ase.io import write as ase_write

    given.work.mkdir(parents=True, exist_ok=True)
    ase_write(given.work / "start.xyz", bulk("Al", cubic=True, a=4.05).repeat(2))
    out = given.work / "run"
    options = {
        "out": out,
        "stride-fs": STRIDE_FS,
        "length-ps": given.strides * STRIDE_FS / 1000,
        "temperature": TEMPERATURE,
        "thermostat": "langevin",
        "every": EVERY,
        "calculator": "emt",
        "energies": ENERGIES,
    }
    said = [str(x) for name, value in options.items() for x in (f"--{name}", value)]
    program = Path(sys.executable).with_name("symstride")
    process = subprocess.Popen(
        [str(program), "run", str(MODEL), str(given.work / "start.xyz"), *said], stdout=subprocess.DEVNULL
    )
    began, seen = time.monotonic(), []
    while process.poll() is None:
        seen.append((time.monotonic() - began, memory(process.pid), size(out)))
        time.sleep(5)
    if process.returncode:
        raise SystemExit(f"the run ended with {process.returncode}")
    write(RESULTS, [row(out, given.strides, np.array(seen))])


def row(out: Path, strides: int, seen: np.ndarray) -> dict:
    """Memory and files after a tenth, half and all of the time; energies and temperatures of each tenth of
    the strides, with their errors."""
    from symstride.data import h5md
    from symstride.measure.statistics import blocked_mean
    from symstride.units import KB

    (path,) = sorted(out.glob("*.h5"))
    run = h5md.read(path)
    assert run.energies is not None

    def parts(series: np.ndarray) -> list[tuple[float, float]]:
        found = [blocked_mean([part]) for part in np.array_split(series, PARTS)]
        return [(float(e.value), float(e.stderr)) for e in found]

    known = np.isfinite(run.energies)
    kelvin = 2 * run.kinetic_energies / ((3 * run.n_atoms - 3) * KB)
    seen = seen[seen[:, 1] > 0]
    times = [len(seen) // 10, len(seen) // 2, len(seen) - 1]
    return {
        "method": "explicit",
        "system": "aluminium EMT 300 K Langevin",
        "n_atoms": run.n_atoms,
        "stride_fs": STRIDE_FS,
        "strides": strides,
        "frames": len(run.times),
        "seconds": seen[times, 0].tolist(),
        "memory_mb": seen[times, 1].tolist(),
        "files_mb": seen[times, 2].tolist(),
        "potential_ev": parts(run.energies[known]),
        "temperature_k": parts(kelvin),
    }


def memory(pid: int) -> float:
    """Resident, MB; 0 if the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(x.split()[1]) / 1024 for x in lines if x.startswith("VmRSS")), 0.0)


def size(folder: Path) -> float:
    """Of all files, MB."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20


if __name__ == "__main__":
    main()
