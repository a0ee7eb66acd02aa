"""Numbers as people write them."""

import math


def uncertain(value: float, stderr: float | None) -> str:
    """ "−0.003 ± 0.012": the standard error to two digits, the value to the same place."""
    if stderr is None or not 0 < stderr < math.inf:
        return f"{value:.3g}".replace("-", "−")
    places = max(0, 1 - math.floor(math.log10(stderr)))
    if places > 6:
        return f"{scientific(value)} ± {scientific(stderr)}"
    return f"{value:.{places}f} ± {stderr:.{places}f}".replace("-", "−")


def scientific(value: float) -> str:
    """1e−11, 3.2e−14."""
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}".replace("-", "−")
