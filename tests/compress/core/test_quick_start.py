"""A command imports diffusers without what nothing here uses, and leaves torch whole."""

import json
import subprocess
import sys

import pytest

START = """
import json, sys
from compress.core.quick_start import import_quickly
import_quickly()
from compress import run
from compress.recipe.recipe import load_recipe
load_recipe("passionsr_w8a8").source.build()
names = ("peft", "bitsandbytes", "torchao", "accelerate", "torchvision", "torch._dynamo")
loaded = [name for name in names if name in sys.modules]
load_recipe("passionsr_w8a8", ["source.size=sd21"]).source.build()
assert "transformers" in sys.modules
import torch._dynamo
doubled = torch.compile(lambda x: 2 * x, backend="eager")(torch.ones(1)).item()
from diffusers.models.attention import BasicTransformerBlock
print(json.dumps([loaded, torch._dynamo.__file__, doubled, sys.meta_path[0].__class__.__name__]))
"""


@pytest.mark.slow
def test_what_nothing_uses_is_not_imported_and_torch_compiles_afterwards():
    """Not even after a full size was built, which imports transformers."""
    done = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, check=True)
    loaded, file, doubled, first_finder = json.loads(done.stdout.splitlines()[-1])
    assert loaded == []
    assert file.endswith("__init__.py")  # torch's own
    assert doubled == 2
    assert first_finder != "_BeforeDiffusers"


IMPORT = """
import sys, torch
from compress.core.quick_start import without_compiler
finders = list(sys.meta_path)
with without_compiler():
    import torch._dynamo.{part}
    from torch._dynamo import config
    assert torch._dynamo.{part}.__spec__.name == "torch._dynamo.{part}"
    assert torch._dynamo.__file__.endswith("__init__.py")
assert sys.meta_path == finders
assert sys.modules["torch._dynamo"] is torch._dynamo
assert torch.compile(lambda x: 2 * x, backend="eager")(torch.ones(1)).item() == 2
import compress.api
assert not any(type(f).__name__ == "_BeforeDiffusers" for f in sys.meta_path)
"""


@pytest.mark.slow
def test_a_part_of_the_compiler_brings_the_whole():
    """Torchao and torchvision import such parts; a plan of SD 2.1 imports them.

    A program of somebody else, which imports the package, keeps diffusers as it is.
    """
    subprocess.run([sys.executable, "-c", IMPORT.format(part="utils")], check=True)
