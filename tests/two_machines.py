"""Trainings of two processes by their real launchers, on one machine and as two machines.

    python tests/two_machines.py [DIR]

Each part compares with one process of twice the batches a step: `torchrun` with two processes,
`torchrun` as two machines of one process each that meet on the loopback address, a worker that is
killed and started again, and weights that are spread (FSDP 2). On CPUs `accelerate launch` starts
several processes by MPI alone, so it is not tried. It takes some CPU minutes, and is no test of the
suite for that reason.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file
from skimage import data

# More steps than lie between two checkpoints, and no discriminator, under which paths soon part.
LONGER = ("stages.0.steps=270", "stages.0.losses={l1: 1.0, kl: 1.0e-5}", "stages.0.lr=1e-4")
RECIPE = """
name: tiny
source: {family: osediff, size: nano, latent_channels: 4, unet_channels: [16, 16, 16, 16],
         vae_channels: [8, 8, 8, 8], encoder_channels: null, time_channels: 32}
data: {folders: [PHOTOGRAPHS]}
stages:
  - {stage: autoencoder, steps: 6, batch: 1, accumulate: 1, crop: 64, lr: 1.0e-3, ema: 0.5,
     losses: {l1: 1.0, kl: 1.0e-5, gan: 0.1}}
"""
MEET = ["--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
LIMIT = 300  # seconds that a training may take
TOLERANCE = 2e-3  # of a cosine's distance from 1


def main(folder: Path) -> int:
    """Run all parts; returns the exit code."""
    for name in ("astronaut", "coffee"):
        (folder / "photographs").mkdir(parents=True, exist_ok=True)
        Image.fromarray(getattr(data, name)()).save(folder / f"photographs/{name}.png")
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.replace("PHOTOGRAPHS", str(folder / "photographs")))
    run = Runs(folder, recipe)
    start = run.alone("start", "stages.0.steps=1", "stages.0.lr=1e-12")
    one = run.alone("one", "stages.0.accumulate=2")
    long = run.alone("long", "stages.0.accumulate=2", *LONGER)
    found = {
        "torchrun, one machine": (run.launched("launched"), one),
        "torchrun, two machines": (run.two_machines("machines"), one),
        "spread weights": (run.two_machines("spread", "shard=true"), one),
        "killed and resumed": (run.killed("killed"), long),
    }
    worst = 0.0
    for name, (values, expected) in found.items():
        away = 1 - likeness(values, expected, start)
        worst = max(worst, away)
        print(f"{name}: 1 - cosine with the way of one process {away:.2e}")
    return int(worst > TOLERANCE)


def likeness(values: dict, expected: dict, start: dict) -> float:
    """The cosine between two ways from `start`, of all tensors together."""
    ways = [
        torch.cat([(v[name].float() - start[name].float()).flatten() for name in start])
        for v in (values, expected)
    ]
    return torch.cosine_similarity(*ways, dim=0).item()


class Runs:
    """Trainings of one recipe in one folder."""

    def __init__(self, folder: Path, recipe: Path):
        self.folder = folder
        self.recipe = recipe

    def command(self, name: str, *overrides: str) -> list[str]:
        place = ["--workdir", str(self.folder / name), "-o", str(self.file(name))]
        return ["compress.train", str(self.recipe), *overrides, *place]

    def file(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def alone(self, name: str, *overrides: str) -> dict:
        subprocess.run([sys.executable, "-m", *self.command(name, *overrides)], check=True)
        return load_file(self.file(name))

    def launched(self, name: str) -> dict:
        options = ["--standalone", "--nproc-per-node=2", "-m"]
        subprocess.run([*TORCHRUN, *options, *self.command(name)], check=True, timeout=LIMIT)
        return load_file(self.file(name))

    def machines(self, name: str, *overrides: str) -> list[subprocess.Popen]:
        """Two launchers, each with a process of its own, that meet on the loopback address."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        made = []
        for number in range(2):
            meet = [*TORCHRUN, *MEET, f"--master-port={port}", f"--node-rank={number}", "-m"]
            command = [*meet, *self.command(name, *overrides)]
            made.append(subprocess.Popen(command, start_new_session=True))
        return made

    def two_machines(self, name: str, *overrides: str) -> dict:
        made = self.machines(name, *overrides)
        try:
            for machine in made:
                assert machine.wait(LIMIT) == 0, f"{name}: a machine failed"
        finally:
            for machine in made:
                machine.kill()
        return load_file(self.file(name))

    def killed(self, name: str) -> dict:
        """Kill the second machine with its worker in the middle, then start both again."""
        first, second = self.machines(name, *LONGER)
        while not (self.folder / name / "0_autoencoder.checkpoint").is_dir():
            time.sleep(0.05)
        os.killpg(second.pid, signal.SIGKILL)
        assert first.wait() != 0, "the first machine ended as if nothing were amiss"
        assert not self.file(name).exists()
        second.wait()
        return self.two_machines(name, *LONGER)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else temporary).resolve()))
