"""How many steps to leave out next: AdaDiffSR's dynamic timestep skipping (arXiv 2410.17752).

A state is *growing* (both gains rise: small intervals), *stable* (FR rises, NR does not: large
ones) or *saturated* (NR falls: leave, with the state that was best by NR) [doc]. tau = 5e-3 and the
intervals 5, 10, 15 and 20 of 1000 are the paper's [doc]; which goes where is our choice [REC]:

    |                       | FR gain > tau | else |
    |-----------------------|---------------|------|
    | first half, NR unknown| k2            | k4   |
    | NR > tau              | k1            | k2   |
    | -tau <= NR <= tau     | k3            | k4   |
    | NR < -tau             | exit          | exit |

All comparisons are strict: a gain equal to tau is no rise. The first interval is k2 [REC]. The best
state has the greatest running sum of NR gains in the second half; of equals the earlier [REC].

This module needs nothing else, because an exported folder has a copy of it in host/.
"""

from dataclasses import dataclass, field

TAU = 5e-3  # gains within it are none [doc]
INTERVALS = (5, 10, 15, 20)  # of 1000 timesteps [doc]
Intervals = tuple[int, int, int, int]


@dataclass(frozen=True)
class Rules:
    """When to take which interval.

    Attributes:
        intervals: k1 to k4, in steps.
        tau: Above it a gain is a rise, below its negative a fall.
        first: The first interval.
        leave: Whether a saturated state ends the chain. Else it takes the largest interval.
    """

    intervals: Intervals = INTERVALS
    tau: float = TAU
    first: int = INTERVALS[1]
    leave: bool = True

    def __post_init__(self) -> None:
        if min(*self.intervals, self.first) < 1:
            raise ValueError(f"intervals {self.intervals}: each must be a step at least")

    def interval(self, fr: float, nr: float | None) -> int | None:
        """The next interval; None to leave.

        Args:
            fr: The gain by metrics that compare with the input.
            nr: The gain by those of the image alone; None in the first half, where noise hides it.
        """
        k1, k2, k3, k4 = self.intervals
        rises = fr > self.tau
        if nr is None:
            return k2 if rises else k4
        if nr < -self.tau:
            return None if self.leave else k4
        if nr > self.tau:
            return k1 if rises else k2
        return k3 if rises else k4

    def most_calls(self, places: int) -> int:
        """How many states a walk visits at most, of a chain of `places` steps."""
        least = min(self.intervals)
        return 1 + max(0, -(-(places - self.first) // least))


@dataclass
class Walk:
    """One tile on its way down a chain: where it is, where it goes, and what was best.

    Attributes:
        rules: The rules.
        places: Steps of the whole chain; the place of that number is its end.
        path: The places that were visited, from 0.
        gained: The sum of NR gains in the second half.
        best: The greatest such sum; None before the second half.
        best_place: Where it was reached.
        left: Whether it left the chain.
    """

    rules: Rules
    places: int
    path: list[int] = field(default_factory=lambda: [0])
    gained: float = 0.0
    best: float | None = None
    best_place: int | None = None
    left: bool = False

    @property
    def place(self) -> int:
        """Where it is."""
        return self.path[-1]

    def knows_nr(self) -> bool:
        """Whether it is in the second half, where NR metrics see through the noise [doc]."""
        return 2 * self.place >= self.places

    def first(self) -> int:
        """The place after the first one."""
        return min(self.places, self.rules.first)

    def onward(self, fr: float, nr: float) -> int | None:
        """The place after this one, by what was gained on the way here; None to leave.

        Args:
            fr: The gain by metrics that compare with the input.
            nr: The gain by those of the image alone; ignored in the first half.
        """
        known = self.knows_nr()
        if known:
            self.gained += nr
            if self.best is None or self.gained > self.best:
                self.best, self.best_place = self.gained, self.place
        interval = self.rules.interval(fr, nr if known else None)
        if interval is None:
            self.left = True
            return None
        return min(self.places, self.place + interval)

    def go(self, place: int) -> None:
        """Arrive at a place."""
        self.path.append(place)
