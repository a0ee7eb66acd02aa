"""Learned maps in the programs where people already work."""
