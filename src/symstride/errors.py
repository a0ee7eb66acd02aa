"""What goes wrong, said so that the user knows what is wrong, where, and what would be right."""


class SymstrideError(Exception):
    """Base of every error a user can cause or meet: one line on the command line, which then exits with 1."""


class DataError(SymstrideError):
    """A trajectory or structure is missing something, inconsistent, corrupt or unphysical."""


class ConfigError(SymstrideError):
    """A configuration key has a value that does not make sense."""


class ModelError(SymstrideError):
    """A model file is corrupt, or asked for something it was not trained for."""


class ConvergenceError(SymstrideError):
    """An implicit map's equation was not solved to its tolerance."""


class SimulationError(SymstrideError):
    """A run left the region where its result means anything: NaN, overlap, or a neighbour list outrun."""


class SymstrideWarning(UserWarning):
    """Something the user should know and may accept."""


def first_line(error: BaseException) -> str:
    """Of what another library says."""
    return (str(error) or type(error).__name__).splitlines()[0]
