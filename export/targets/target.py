"""What a target is, as data; importing it loads no library."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A runtime that a model can be exported for.

    Attributes:
        module: `export.targets.to_<module>` has `write(parts, folder)`, which makes the files; with
            a dot in it, the module itself, of another package.
        packages: Import names of what has to be installed here.
        install: The command that installs them.
        dtypes: What it can compute in -> the default threshold of parity in dB, end to end.
        default: The dtype of a float model.
        runs: Whether what is made can run where it was made.
        takes_quantised: Whether the ranges of a quantize pass are kept.
        whole: Whether it also writes one graph for all.
        dynamic: Whether it takes images of any size.
        remark: What to say where nothing runs here.
    """

    module: str
    packages: tuple[str, ...]
    install: str
    dtypes: dict[str, float]
    default: str
    runs: bool = True
    takes_quantised: bool = False
    whole: bool = False
    dynamic: bool = False
    remark: str = ""
