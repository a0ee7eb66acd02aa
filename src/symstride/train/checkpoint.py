"""Where a training stands, in memory and on disk."""

import hashlib
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from symstride.data.files import load_arrays, save_arrays
from symstride.errors import DataError
from symstride.neighbors import NO_SLOTS, Slots
from symstride.train.config import TrainConfig
from symstride.train.objective import Stage
from symstride.train.optimizer import make_optimizer


@dataclass(frozen=True)
class State:
    """Where training stands after `step` steps."""

    step: int
    parameters: Any
    optimizers: tuple[tuple[Any, Any], ...]  # for each phase: the transformation and its moments
    best: Any
    history: list[dict]
    seconds: float
    slots: Slots = NO_SLOTS  # of the neighbour lists: sums over more of them round differently

    @staticmethod
    def fresh(parameters, phases: Sequence[Stage]) -> "State":
        transformations = [make_optimizer(phase.rate, phase.steps) for phase in phases]
        optimizers = tuple((t, t.init(parameters)) for t in transformations)
        return State(0, parameters, optimizers, jax.tree.map(jnp.copy, parameters), [], 0.0)

    def placed(self, place: Callable[[Any], Any]) -> "State":
        """With all arrays where `place` puts them."""
        optimizers = tuple((t, place(moments)) for t, moments in self.optimizers)
        return replace(self, parameters=place(self.parameters), optimizers=optimizers, best=place(self.best))

    def updated(self, phase: int, parameters, moments) -> "State":
        optimizers = list(self.optimizers)
        optimizers[phase] = (optimizers[phase][0], moments)
        return replace(self, step=self.step + 1, parameters=parameters, optimizers=tuple(optimizers))

    def validated(self, entry: dict) -> "State":
        """With one more validation; the parameters are kept as the best if its score is the lowest so far."""
        better = entry["score"] < self.best_score
        best = jax.tree.map(jnp.copy, self.parameters) if better else self.best
        return replace(self, best=best, history=[*self.history, entry], seconds=entry["seconds"])

    @property
    def best_score(self) -> float:
        return min((e["score"] for e in self.history), default=math.inf)


@dataclass(frozen=True)
class Checkpoint:
    """A training's state on disk, valid for one configuration and one set of data."""

    config: TrainConfig
    digest: str

    @property
    def path(self) -> Path:
        return self.config.output.with_name(self.config.output.name + ".checkpoint.npz")

    @property
    def identity(self) -> str:
        start = self.config.start and hashlib.sha256(self.config.start.read_bytes()).hexdigest()
        described = {"config": self.config.model_dump(mode="json"), "data": self.digest, "start": start}
        return json.dumps(described, sort_keys=True)

    def save(self, state: State) -> None:
        arrays = io.BytesIO()
        eqx.tree_serialise_leaves(arrays, self._trees(state))
        save_arrays(
            self.path,
            {
                "identity": np.array(self.identity),
                "step": np.array(state.step),
                "slots": np.array(state.slots),
                "history": np.array(json.dumps(state.history)),
                "seconds": np.array(state.seconds),
                "arrays": np.frombuffer(arrays.getvalue(), np.uint8),
            },
        )

    def load(self, fresh: State) -> State:
        """The saved state, or `fresh` if there is none. A checkpoint of another training is refused."""
        if not self.path.exists():
            return fresh
        saved = load_arrays(self.path)
        if str(saved.get("identity")) != self.identity:
            raise DataError(
                f"{self.path}: belongs to another configuration or other data; remove it to begin anew, "
                "or give another output"
            )
        try:
            arrays = io.BytesIO(saved["arrays"].tobytes())
            parameters, moments, best = eqx.tree_deserialise_leaves(arrays, self._trees(fresh))
            history, seconds = json.loads(str(saved["history"])), float(saved["seconds"])
            step, slots = int(saved["step"]), Slots(*saved["slots"].tolist())
        except (KeyError, ValueError, RuntimeError, EOFError) as error:
            raise DataError(f"{self.path}: damaged; remove it to begin anew") from error
        optimizers = tuple((t, m) for (t, _), m in zip(fresh.optimizers, moments, strict=True))
        return State(step, parameters, optimizers, best, history, seconds, slots)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    @staticmethod
    def _trees(state: State):
        return state.parameters, tuple(m for _, m in state.optimizers), state.best
