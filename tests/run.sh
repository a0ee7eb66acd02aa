#!/usr/bin/env bash
# Lints, type-checks and tests, in a virtual environment of its own that is made if it is not there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=${VENV:-.venv-test}
if [ ! -x "$venv/bin/python" ]; then
    if ! ${PYTHON:-python3} -m venv "$venv"; then
        rm -rf "$venv"
        echo "tests/run.sh: Python cannot make virtual environments here; on Debian and Ubuntu: apt install python3-venv" >&2
        exit 1
    fi
fi
PIP_DISABLE_PIP_VERSION_CHECK=1 "$venv/bin/python" -m pip install --quiet --editable '.[test]'

# two test processes with one thread each; most of their time is compilation, so little of it
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 JAX_PLATFORMS=cpu JAX_TRACEBACK_IN_LOCATIONS_LIMIT=0
export XLA_FLAGS="--xla_cpu_multi_thread_eigen=false --xla_backend_optimization_level=0 ${XLA_FLAGS:-}"
older="--xla_cpu_use_fusion_emitters=false $XLA_FLAGS"  # compile a third faster; not every jax has them
if XLA_FLAGS=$older "$venv/bin/python" -c "import jax; jax.numpy.zeros(1)" 2>/dev/null; then
    export XLA_FLAGS=$older
fi

"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check .
"$venv/bin/pyright" --pythonpath "$venv/bin/python" &  # beside the tests
types=$!
"$venv/bin/python" -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder "$@" || failed=$?
wait "$types"
exit "${failed:-0}"
