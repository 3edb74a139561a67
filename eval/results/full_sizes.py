"""Every source at its full size, and the recipes that compress it.

It is data alone, for the tables of chips and of targets. What a recipe costs is counted by
tests/bench/bench_phone_recipes.py; tests/bench/bench_full_target.py exports it.
"""

from dataclasses import dataclass

STRIP, PAPER, OURS, W8A8, W8A16 = "strip", "paper", "ours", "W8A8", "W8A16"
WAYS = (STRIP, PAPER, OURS, W8A8, W8A16)
SAME = "its paper's model is what strip leaves"
FINISHED = "the source is what its paper's recipe makes"
NOBODY = "no paper's recipe is here"


@dataclass(frozen=True)
class Shipped:
    """A recipe that comes with the package, and what full size changes in it.

    Attributes:
        name: Of its file under recipes/.
        title: As tables call it.
        overrides: `key=value`, beside the source's.
    """

    name: str
    title: str
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class FullSize:
    """A source at full size.

    Attributes:
        label: As tables call it.
        source: What a recipe says of it.
        eight_bits: Its recipe with the pass `quantize`. Without that pass it is the way `strip`.
        paper: The recipe of a paper that compresses it, or why there is none.
        ours: A recipe that no paper has; None where there is none.
    """

    label: str
    source: dict[str, str | int]
    eight_bits: Shipped
    paper: Shipped | str = NOBODY
    ours: Shipped | None = None

    def recipe(self, way: str) -> Shipped | None:
        """The recipe of one of WAYS; None where there is none."""
        if way == PAPER:
            return self.paper if isinstance(self.paper, Shipped) else None
        return self.ours if way == OURS else self.eight_bits

    def title(self, way: str) -> str:
        """A way as tables call it; the way itself where there is no recipe."""
        if way == STRIP:
            return STRIP
        if way == W8A16:
            return self.eight_bits.title.replace(W8A8, W8A16)
        shipped = self.recipe(way)
        return way if shipped is None else shipped.title


SINSR = Shipped("sinsr_w8a8", "W8A8")
CCSR = Shipped("ccsr_w8a8", "W8A8")
ADDSR = Shipped("addsr_w8a8", "W8A8")
DOSSR = Shipped("dossr_w8a8", "W8A8")
EDGE = Shipped("edge_sd_sr_w8a8", "W8A8")
FULL_SIZES = (
    FullSize(
        "OSEDiff",
        {"family": "osediff", "size": "sd21"},
        Shipped("passionsr_w8a8", "PassionSR W8A8"),
        Shipped("adcsr_paper", "AdcSR"),
        Shipped(
            "depth_light_w8a8",
            "depth and light ends, W8A8",
            ("passes.2.channels=128", "passes.3.size=default"),
        ),
    ),
    FullSize(
        "AdcSR",
        {"family": "adcsr", "size": "sd21"},
        Shipped("adcsr_weights_w8a8", "PassionSR W8A8"),
        FINISHED,
    ),
    FullSize(
        "ResShift, 15 steps", {"family": "resshift", "model": "resshift", "size": "full"}, SINSR
    ),
    FullSize(
        "SinSR",
        {"family": "resshift", "model": "sinsr", "size": "full"},
        SINSR,
        Shipped("bimacosr", "BiMaCoSR"),
        Shipped("bimacosr_full", "BiMaCoSR, autoencoder W8A8"),
    ),
    FullSize("Edge-SD-SR", {"family": "edge_sd_sr", "size": "default"}, EDGE, SAME),
    FullSize("Edge-SD-SR lite", {"family": "edge_sd_sr", "size": "lite"}, EDGE, SAME),
    FullSize(
        "DFOSD",
        {"family": "dfosd", "size": "full"},
        Shipped("dfosd_w8a8", "W8A8"),
        ours=Shipped("dfosd_binary", "binary, autoencoder W8A8"),
    ),
    FullSize(
        "InvSR",
        {"family": "invsr", "size": "full"},
        Shipped("invsr_w8a8", "W8A8"),
        ours=Shipped("invsr_light", "light", ("passes.2.channels=128",)),
    ),
    FullSize(
        "CCSR 2",
        {"family": "ccsr", "size": "full"},
        CCSR,
        ours=Shipped("ccsr_pruned", "pruned", ("passes.2.size=default",)),
    ),
    FullSize("CCSR 1", {"family": "ccsr", "size": "full", "version": 1}, CCSR),
    FullSize("AddSR, 1 step", {"family": "addsr", "size": "full", "steps": 1}, ADDSR),
    FullSize(
        "AddSR, 4 steps",
        {"family": "addsr", "size": "full", "steps": 4},
        ADDSR,
        ours=Shipped("addsr_one_step", "one step"),
    ),
    FullSize(
        "DoSSR, 1 step",
        {"family": "dossr", "size": "full", "steps": 1},
        DOSSR,
        ours=Shipped("dossr_depth_w8a8", "depth, W8A8"),
    ),
    FullSize("DoSSR, 5 steps", {"family": "dossr", "size": "full", "steps": 5}, DOSSR),
    FullSize(
        "TSD-SR",
        {"family": "tsdsr", "size": "full"},
        Shipped("tsdsr_w8a8", "W8A8"),
        Shipped("tinysr", "TinySR", ("passes.0.ratio=0.34", "passes.3.channels=128")),
    ),
    FullSize("LDM-SR, 50 steps", {"family": "ldm", "size": "full"}, SINSR),
)
BY_LABEL = {one.label: one for one in FULL_SIZES}
