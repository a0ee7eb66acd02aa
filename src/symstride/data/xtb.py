"""GFN1- and GFN2-xTB by tblite."""

import tblite.ase  # pyright: ignore[reportMissingImports]


class TBLite(tblite.ase.TBLite):
    """tblite's calculator, which begins each SCF with the wave function of the one before."""

    def forget(self) -> None:
        """Back to the state of a new calculator; tblite's `reset` keeps the wave function."""
        self.reset()
        self._xtb = self._res = None
