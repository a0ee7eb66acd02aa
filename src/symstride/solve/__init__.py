"""Solvers of the implicit maps' equations."""

from symstride.solve.anderson import Anderson

__all__ = ["Anderson"]
