"""Trajectories: in memory, on disk, from calculators and from other programs."""

from symstride.data.trajectory import Trajectory

__all__ = ["Trajectory"]
