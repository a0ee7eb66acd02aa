"""The devices of a training, in one process or in many: each takes an equal share of every batch."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, TypeVar

import jax
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from symstride.data.pairs import Batch, Pair, Pairs, on_device
from symstride.errors import ConfigError, DataError, SymstrideError, first_line
from symstride.neighbors import Slots

T = TypeVar("T")

AXIS = "devices"
EVERYWHERE, SHARED = PartitionSpec(), PartitionSpec(AXIS)
TASKS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")  # as srun and mpirun tell their processes


@contextmanager
def together(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> Iterator[None]:
    """With the other processes of one training; jax then sees the devices of all.

    Processes started by srun or mpirun find each other. Others are told the address `host:port` at which
    number 0 waits, how many they are and their number. Raises ConfigError if they do not find each other,
    SymstrideError if one of them is gone.
    """
    given = coordinator, processes, process
    if all(x is None for x in given):
        if not any(int(os.environ.get(name) or 1) > 1 for name in TASKS):
            yield
            return
    elif coordinator is None or processes is None or process is None:
        raise ConfigError("coordinator, processes, process: give all three, or none under srun and mpirun")
    elif not 0 <= process < processes:
        raise ConfigError(f"process: {process} is not right: {processes} processes are 0 to {processes - 1}")
    jax.config.update("jax_enable_preemption_service", False)  # SIGTERM is to end it, as ever
    try:
        jax.distributed.initialize(*given)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"coordinator: the processes do not find each other ({error})") from error
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        reason = first_line(error)
        raise SymstrideError(
            f"training: this process or another one failed ({reason}); start all again to go on"
        ) from error
    jax.distributed.shutdown()  # not after an error: it would wait for those that wait for this one


def leading() -> bool:
    """Whether this is the process that writes files."""
    return jax.process_index() == 0


@dataclass(frozen=True)
class Devices:
    """All that jax sees. Parameters are the same on each; with one device nothing is done to anything."""

    mesh: Mesh

    @staticmethod
    def sharing(frames: int) -> "Devices":
        """Raises ConfigError if there are no equal shares of so many frames."""
        count = jax.device_count()
        if frames % count:
            right = [n for n in (frames // count * count, -(-frames // count) * count) if n]
            raise ConfigError(
                f"schedule.frames: {frames} is not right: {count} devices take equal shares of a batch; give "
                + " or ".join(map(str, right))
            )
        return Devices(Mesh(np.asarray(jax.devices()), (AXIS,)))

    @property
    def alone(self) -> bool:
        return self.mesh.size == 1

    def everywhere(self, tree: Any) -> Any:
        """Arrays that all processes have alike, on all devices."""
        return tree if self.alone else self._placed(EVERYWHERE, tree)

    def here(self, tree: Any) -> Any:
        """The same as arrays of one device of this process."""
        return tree if self.alone else jax.tree.map(lambda x: x.addressable_data(0), tree)

    def batch(self, pairs: Pairs, drawn: Sequence[Pair]) -> Batch:
        """The pairs as a batch. On several devices the shares lie on a first axis, of which each has one."""
        if self.alone:
            return on_device(pairs.gather(drawn))
        each = len(drawn) // self.mesh.size
        own = [k for k, d in enumerate(self.mesh.devices.flat) if d.process_index == jax.process_index()]
        shares = [pairs.gather(drawn[k * each : (k + 1) * each]) for k in own]
        return self._placed(SHARED, jax.tree.map(lambda *x: np.stack(x), *shares))

    def shared(self, loss: Callable[[Any, Batch], Array]) -> Callable[[Any, Batch], Array]:
        """The loss [] of the whole batch, as a function of parameters and such a batch."""
        if self.alone:
            return loss

        def of_share(parameters: Any, shares: Batch) -> Array:
            return loss(parameters, replace(jax.tree.map(lambda x: x[0], shares), axis=AXIS))

        return jax.shard_map(
            of_share, mesh=self.mesh, in_specs=(EVERYWHERE, SHARED), out_specs=EVERYWHERE, check_vma=False
        )

    def part(self, items: Sequence[T]) -> Sequence[T]:
        """What of the items is this process's."""
        return items[jax.process_index() :: jax.process_count()]

    def total(self, tree: Any) -> Any:
        """Sums of the arrays that processes have."""
        return jax.tree.map(lambda x: x.sum(0), multihost_utils.process_allgather(tree))

    def widest(self, pairs: Pairs) -> Slots:
        """Slots for the neighbours in any pair: shares need shapes that all processes know."""
        if self.alone:
            return pairs.slots
        found = [pairs.slots, *(pairs.neighbors(pair).slots for pair in self.part(pairs.every))]
        return Slots(*multihost_utils.process_allgather(np.array(found).max(0)).max(0).tolist())

    def agree(self, text: str) -> None:
        """Raises DataError if processes have different ones."""
        mine = np.frombuffer(sha256(text.encode()).digest(), np.int32)
        if (multihost_utils.process_allgather(mine) != mine).any():
            raise DataError(
                "training: not all processes see the same data, configuration and checkpoint; all must be on "
                "a file system that the machines share"
            )

    def _placed(self, spec: PartitionSpec, tree: Any) -> Any:
        sharding = NamedSharding(self.mesh, spec)
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree)
