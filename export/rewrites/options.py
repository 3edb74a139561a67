"""What a rewrite may be told."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Options:
    """What a rewrite may be told.

    Attributes:
        chunk: Queries that one attention product sees at most; None for all.
        feeds: Inputs of the graph by name, for rewrites that look at values.
        limit: The largest magnitude that `rescale` leaves alone. float16 ends at 65504.
    """

    chunk: int | None = None
    feeds: list[dict[str, np.ndarray]] = field(default_factory=list)
    limit: float = 4096.0


DEFAULTS = Options()
