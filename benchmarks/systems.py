"""Systems with hydrogen for the benchmarks: a structure and the sample.yaml to go with it.

    python benchmarks/systems.py NAME OUT [--starts 12] [--ps 50]

NAME: water64, water216, water512 (SPC/Fw), ethanol, paracetamol (GFN2-xTB), dipeptide (ACE-ALA-NME, Amber14,
in vacuum), dipeptide-water (in SPC/Fw). Writes starts.xyz, sample.yaml and, for OpenMM, topology.pdb. The
starts are then frames of the last four fifths of `ps` of Langevin dynamics, of a liquid at 300 K, in vacuum
at 500 K, where the backbone turns sooner.
"""

import argparse
from pathlib import Path

import numpy as np
import openmm  # pyright: ignore[reportMissingImports]
import yaml
from ase import Atoms, units
from ase.build import molecule
from ase.io import read, write
from openmm import app, unit  # pyright: ignore[reportMissingImports]
from scipy.spatial.transform import Rotation

HERE = Path(__file__).parent
SIDES = {"water64": 4, "water216": 6, "water512": 8}
NAMES = [*SIDES, "ethanol", "paracetamol", "dipeptide", "dipeptide-water"]
SPACING = (18.015 / units.mol / 0.997 * 1e24) ** (1 / 3)  # Å between molecules, at 0.997 g/cm³


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("name", choices=NAMES)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--starts", type=int, default=12)
    arguments.add_argument("--ps", type=float, default=50.0)
    given = arguments.parse_args()
    make(given.name, given.out, given.starts, given.ps)


def make(name: str, out: Path, starts: int = 12, ps: float = 50.0) -> None:
    """Writes the system of this name to the directory `out`."""
    out.mkdir(parents=True, exist_ok=True)
    if name in ("ethanol", "paracetamol"):
        atoms = molecule("CH3CH2OH") if name == "ethanol" else read(HERE / "structures" / "paracetamol.xyz")
        write(out / "starts.xyz", atoms)
        calculator = {"name": "tblite"}  # GFN2-xTB
    else:
        topology, positions, forcefield = (
            water(SIDES[name]) if name in SIDES else dipeptide(name != "dipeptide")
        )
        app.PDBFile.writeFile(topology, positions, str(out / "topology.pdb"))
        settings: dict = {"nonbondedMethod": "NoCutoff"}
        if edges := _edges(topology):  # 64 waters leave no more than 6.2 Å
            cutoff = round(min(0.9, 0.048 * min(edges)), 2)
            settings = {"nonbondedMethod": "PME", "nonbondedCutoff": cutoff}
            settings |= {"switchDistance": round(0.9 * cutoff, 3), "ewaldErrorTolerance": 1e-4}
        files = {"forcefield": forcefield, "topology": str(out / "topology.pdb")}
        calculator = {"name": "openmm", "arguments": files | settings}
        frames = equilibrated(topology, positions, calculator, starts, ps)
        write(out / "starts.xyz", frames)
    (out / "sample.yaml").write_text(yaml.safe_dump(_configuration(out, calculator), sort_keys=False))


def _configuration(out: Path, calculator: dict) -> dict:
    lengths = {"thermalize_ps": 2.0, "length_ps": 0.8, "timestep_fs": 0.25, "every": 4, "segment_frames": 250}
    return {
        "structure": {"file": str(out / "starts.xyz"), "frames": "each"},
        "calculator": calculator,
        "temperature_K": [300, 300, 350, 300, 300, 400],
        "trajectories": 12,
        **lengths,
        "output": str(out / "reference"),
    }


def water(side: int) -> tuple[app.Topology, unit.Quantity, list[str]]:
    """side³ molecules on a cubic lattice, turned at random."""
    half = np.radians(113.24 / 2)
    arms = 1.012 * np.array([[np.sin(half), np.cos(half), 0], [-np.sin(half), np.cos(half), 0]])
    sites = SPACING * np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)
    topology = app.Topology()
    chain = topology.addChain()
    positions = []
    turns = Rotation.random(len(sites), np.random.default_rng(0)).as_matrix()
    for site, turn in zip(sites, turns, strict=True):
        residue = topology.addResidue("HOH", chain)
        oxygen = topology.addAtom("O", app.element.oxygen, residue)
        for name in ("H1", "H2"):
            topology.addBond(oxygen, topology.addAtom(name, app.element.hydrogen, residue))
        positions += [site, *(site + arms @ turn)]
    topology.setPeriodicBoxVectors(np.eye(3) * side * SPACING / 10 * unit.nanometer)
    return topology, unit.Quantity(np.array(positions) / 10, unit.nanometer), ["spcfw.xml"]


def dipeptide(solvated: bool) -> tuple[app.Topology, unit.Quantity, list[str]]:
    """ACE-ALA-NME, in vacuum or among 133 waters in a box of 16.2 Å."""
    pdb = app.PDBFile(str(HERE / "structures" / "dipeptide.pdb"))
    if not solvated:
        return pdb.topology, pdb.positions, ["amber14-all.xml"]
    files = ["amber14-all.xml", "spcfw.xml"]
    modeller = app.Modeller(pdb.topology, pdb.positions)
    modeller.addSolvent(
        _forcefield(files), model="spce", boxSize=openmm.Vec3(1.7, 1.7, 1.7), neutralize=False
    )
    return *_compressed(modeller.topology, modeller.positions), files


def _compressed(topology: app.Topology, positions: unit.Quantity) -> tuple[app.Topology, unit.Quantity]:
    """At 0.997 g/cm³, molecule by molecule: addSolvent leaves gaps where its boxes meet."""
    mass = sum(atom.element.mass.value_in_unit(unit.dalton) for atom in topology.atoms())
    edge = (mass / units.mol / 0.997 * 1e24) ** (1 / 3) / 10
    scale = edge / (0.1 * min(_edges(topology) or [1.0]))
    q = np.array(positions.value_in_unit(unit.nanometer))
    for chain in topology.chains():
        residues = list(chain.residues())
        for together in [[r] for r in residues] if residues[0].name == "HOH" else [residues]:
            atoms = [atom.index for residue in together for atom in residue.atoms()]
            q[atoms] += (scale - 1) * q[atoms].mean(axis=0)
    topology.setPeriodicBoxVectors(np.eye(3) * edge * unit.nanometer)
    return topology, unit.Quantity(q, unit.nanometer)


def equilibrated(
    topology: app.Topology, positions: unit.Quantity, calculator: dict, starts: int, ps: float
) -> list[Atoms]:
    """Relaxed, then `starts` frames of the last four fifths of `ps` of Langevin dynamics."""
    from symstride.data.calculators import make_calculator
    from symstride.data.config import CalculatorConfig
    from symstride.data.dynamics import make_dynamics

    cell = _edges(topology)
    atoms = Atoms(
        [atom.element.symbol for atom in topology.atoms()],
        10 * np.asarray(positions.value_in_unit(unit.nanometer)),
        cell=cell,
        pbc=bool(cell),
    )
    atoms.calc = make_calculator(CalculatorConfig.model_validate(calculator))
    dynamics = make_dynamics(atoms, 0.5)
    rng = np.random.default_rng(0)
    move = dynamics.langevin(300.0 if cell else 500.0, rng)
    openmm.LocalEnergyMinimizer.minimize(atoms.calc.context, 10.0, 500)
    frames = []
    for _ in range(starts):
        move(round(1600 * ps / starts) if frames else round(400 * ps))
        dynamics.read()
        frames.append(Atoms(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=atoms.pbc))
    return frames


def _forcefield(files: list[str]) -> app.ForceField:
    import symstride.data

    ours = Path(symstride.data.__file__).parent / "forcefields"
    return app.ForceField(*[str(ours / f) if (ours / f).exists() else f for f in files])


def _edges(topology: app.Topology) -> list[float] | None:
    """Of the box, Å."""
    edges = topology.getUnitCellDimensions()
    return None if edges is None else [10 * float(edge.value_in_unit(unit.nanometer)) for edge in edges]


if __name__ == "__main__":
    main()
