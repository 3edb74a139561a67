"""The option --track, which --help shows without torch."""

import argparse

TRACKERS = ("tensorboard", "trackio", "wandb")  # also what their packages and extras are called


def add_trackers(parser: argparse.ArgumentParser) -> None:
    """Give a command --track."""
    parser.add_argument(
        "--track",
        action="append",
        default=[],
        metavar="|".join(TRACKERS),
        help="a tracker that gets losses, learning rates and samples, as well as the folder "
        "tracks/; may be given several times",
    )
