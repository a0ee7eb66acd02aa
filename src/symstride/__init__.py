"""symstride: long-stride classical dynamics from a learned action.

Phase-space points are float64; importing the package switches jax to 64 bits.
"""

import os
import sys

__version__ = "0.1.0"

if "jax" in sys.modules:
    sys.modules["jax"].config.update("jax_enable_x64", True)
else:  # the command line answers `--help` without loading jax
    os.environ["JAX_ENABLE_X64"] = "1"
