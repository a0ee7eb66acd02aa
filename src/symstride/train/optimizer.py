"""Muon for the hidden matrices, Adam for the rest.

Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024). Invariants of a near-crystal
are badly conditioned; orthogonalised updates halve the error that Adam reaches in the same steps.
"""

import jax
import optax

NEVER = 2**30  # is a gradient that is not finite applied, however many there are in a row


def make_optimizer(rate: float, steps: int) -> optax.GradientTransformation:
    """Warm-up and cosine decay to a hundredth; a step whose gradient is not finite is left out."""
    warmup = max(1, min(50, steps // 10))
    schedule = optax.warmup_cosine_decay_schedule(rate / 30, rate, warmup, max(steps, warmup + 1), rate / 100)
    muon = optax.contrib.muon(
        schedule,
        adam_b2=0.99,
        adam_learning_rate=lambda step: 0.2 * schedule(step),
        muon_weight_dimension_numbers=_hidden,
    )
    return optax.apply_if_finite(optax.chain(optax.clip_by_global_norm(3.0), muon), NEVER)


def left_out(moments) -> tuple[int, int]:
    """How many steps were left out, and how many of them without a break up to now."""
    return int(moments.total_notfinite), int(moments.notfinite_count)


def _hidden(parameters):
    """Marks the matrices Muon updates: all but the readouts, whose outputs have a scale of their own."""

    def mark(path, leaf):
        hidden = leaf.ndim == 2 and "readout" not in jax.tree_util.keystr(path)
        return optax.contrib.MuonDimensionNumbers() if hidden else None

    return jax.tree_util.tree_map_with_path(mark, parameters)
