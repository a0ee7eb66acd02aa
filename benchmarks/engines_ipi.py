"""i-PI moved by a model: what benchmarks of the engines time."""

from collections.abc import Callable
from contextlib import chdir
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


def ipi(model, start, stride_fs: float) -> Callable[[int], object]:
    """`advance(strides)` of an i-PI simulation at constant energy; returns positions [N, 3], Å."""
    from ase.data import chemical_symbols
    from ipi.scripting import InteractiveSimulation

    from symstride.engines import ipi as engine

    def numbers(x) -> list[float]:
        return x.ravel().tolist()

    folder = TemporaryDirectory()
    with chdir(folder.name):
        simulation = InteractiveSimulation(
            XML.format(
                positions=numbers(start.positions[0] * engine.LENGTH),
                momenta=numbers(start.momenta[0] * engine.MOMENTUM),
                masses=numbers(start.masses * engine.MASS),
                labels="[" + ", ".join(chemical_symbols[n] for n in start.numbers) + "]",
                cell=numbers(start.cell.T * engine.LENGTH),
                stride_fs=stride_fs,
            )
        )
    simulation.set_motion_step(engine.nve(model, stride_fs))

    def advance(strides: int):
        with chdir(folder.name):  # i-PI writes a RESTART after each call
            simulation.run(strides)
        return simulation.syslist[0].beads.q[0].reshape(-1, 3) / engine.LENGTH

    return advance
