"""Atomistic units are ASE's (Å, eV, u, time Å√(u/eV)); users write femtoseconds and kelvins."""

from ase import units as _ase

FS = float(_ase.fs)  # one femtosecond in Å√(u/eV)
PS = 1000.0 * FS
KB = float(_ase.kB)  # eV/K
BAR = float(_ase.bar)  # eV/Å³
COULOMB = float(_ase.Hartree * _ase.Bohr)  # eV Å/e²: 14.3996
GRAM_PER_CM3 = 1e-27 / float(_ase._amu)  # u/Å³
