"""How far atoms are from those of the training data, as a model's network sees them."""

import equinox as eqx
import jax.numpy as jnp
from jax import Array

from symstride.actions.generator import LearnedAction
from symstride.actions.kicks import LearnedKicks
from symstride.errors import ConfigError
from symstride.maps.base import Map
from symstride.maps.direct import Corrected
from symstride.maps.dressed import Dressed
from symstride.maps.generating import Generated
from symstride.maps.palindrome import Alternation
from symstride.maps.processed import kernel_of
from symstride.maps.substepping import Substepping
from symstride.phase import Particles, Phase


class Novelty(eqx.Module):
    """d_i = √((φ_i − μ)ᵀ Σ⁻¹ (φ_i − μ) / F), φ_i being the F features of an atom that outputs are linear in,
    μ and Σ their mean and covariance over the atoms of its species in the training data.

    To a linear readout fitted to these data d² is its variance, but for a factor: errors grow in proportion
    to d. In units of `limit`, which hardly a frame of held-out data passes: beyond 1 a point is unlike them.

    Source: Bigi, Chong, Ceriotti, Grasselli, Mach. Learn.: Sci. Technol. 5, 045018 (2024), eq. 9.
    """

    mean: Array  # [S, F]
    whitening: Array  # [S, F, F], W Wᵀ = Σ⁻¹ / F
    limit: Array  # []
    usual: Array  # [] root mean square of held-out frames, in units of the limit

    def __call__(self, map: Map, z: Phase, h: float | Array, particles: Particles) -> Array:
        """That of each replica's farthest atom, [replicas]."""
        distances = jnp.linalg.norm(self.deviations(map, z, h, particles), axis=-1)
        return jnp.max(distances.reshape(particles.replicas, -1), 1)

    def deviations(self, map: Map, z: Phase, h: float | Array, particles: Particles) -> Array:
        """Wᵀ(φ_i − μ) over the limit for each atom, [M, F]: their lengths are the distances."""
        features, species = features_of(map, z, h, particles), jnp.asarray(particles.species)
        found = jnp.zeros_like(features)
        for kind, (mean, whitening) in enumerate(zip(self.mean, self.whitening, strict=True)):
            found = jnp.where((species == kind)[:, None], (features - mean) @ whitening, found)
        return found / self.limit


def features_of(map: Map, z: Phase, h: float | Array, particles: Particles) -> Array:
    """What a map's learned scalar is read from at z, [M, F]. Raises ConfigError for a map that has none."""
    map = map.inner if isinstance(map, Substepping) else kernel_of(map)
    if isinstance(map, Alternation) and isinstance(map.kicks, LearnedKicks):
        return map.kicks.features(z.q, h, particles)
    inner = map.inner if isinstance(map, Dressed) else None
    implicit = inner.implicit if isinstance(inner, Corrected) else inner
    if isinstance(implicit, Generated) and isinstance(implicit.action, LearnedAction):
        return implicit.action.features(z.q, z.p, h, particles)
    raise ConfigError(
        f"novelty: a map of kind {type(inner or map).__name__} has no learned scalar whose features could "
        "tell; take an explicit map or S³"
    )
