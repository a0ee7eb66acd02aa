"""i-PI moved by a model: what benchmarks of the engines time."""

from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory

XML = """
<simulation verbosity='quiet'>
<output prefix='out'/>
<ffdirect name='none'><pes> dummy </pes></ffdirect>
<system>
<initialize nbeads='1'>
<positions mode='manual' bead='0'> {positions} </positions>
<momenta mode='manual' bead='0'> {momenta} </momenta>
<masses mode='manual'> {masses} </masses>
<labels mode='manual'> {labels} </labels>
<cell mode='manual'> {cell} </cell>
</initialize>
<forces><force forcefield='none'/></forces>
<ensemble/>
<motion mode='dynamics'><fixcom> False </fixcom>
<dynamics mode='nve'><timestep units='femtosecond'> {stride_fs} </timestep></dynamics></motion>
</system></simulation>
"""


def ipi(model: Path, atoms, stride_fs: float) -> Callable[[int], tuple]:
    """`symstride.engines.ipi.nve`."""
    from ipi.scripting import InteractiveSimulation  # pyright: ignore[reportMissingImports]

    from symstride.engines import ipi as engine
    from symstride.model import load_model

    def numbers(x) -> list[float]:
        return x.ravel().tolist()

    folder = TemporaryDirectory()
    with chdir(folder.name):
        simulation = InteractiveSimulation(
            XML.format(
                positions=numbers(atoms.get_positions() * engine.LENGTH),
                momenta=numbers(atoms.get_momenta() * engine.MOMENTUM),
                masses=numbers(atoms.get_masses() * engine.MASS),
                labels="[" + ", ".join(atoms.symbols) + "]",
                cell=numbers(atoms.cell.array.T * engine.LENGTH),
                stride_fs=stride_fs,
            )
        )
    simulation.set_motion_step(engine.nve(load_model(model), stride_fs))

    def step(strides: int):
        with chdir(folder.name):  # i-PI writes a RESTART after each call
            simulation.run(strides)
        beads = simulation.syslist[0].beads
        return beads.q[0].reshape(-1, 3) / engine.LENGTH, beads.p[0].reshape(-1, 3) / engine.MOMENTUM

    return step
