"""Solvers of the implicit maps' equations."""

from symstride.solve.anderson import Anderson
from symstride.solve.newton import NewtonKrylov
from symstride.solve.rows import RowSolver

__all__ = ["Anderson", "NewtonKrylov", "RowSolver"]
