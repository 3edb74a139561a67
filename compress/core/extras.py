"""Packages that only some commands need, and the line that installs them.

pyproject.toml lists them under the extra of the same name; a test compares the two.
"""

DISTRIBUTION = "diffusion-sr-compress"

# import name -> extra
EXTRA_OF = {
    "onnx": "export",
    "onnx_ir": "export",
    "onnxruntime": "export",
    "onnxscript": "export",
    "pyiqa": "eval",
    "torchvision": "eval",
    "sklearn": "eval",
    "jinja2": "report",
    "markupsafe": "report",
    "matplotlib": "report",
    "accelerate": "training",
    "peft": "training",
    "tensorboard": "tensorboard",
    "trackio": "trackio",
    "wandb": "wandb",
    "torchao": "baselines",
    "nncf": "baselines",
    "spandrel": "spandrel",
    "pi_heif": "heic",
    "optuna": "search",
    "submitit": "slurm",
    "qai_hub": "ai-hub",
}


def install_line(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"


def missing_package(error: ModuleNotFoundError) -> str | None:
    """One sentence with the remedy for a package of an extra; None for any other module."""
    package = (error.name or "").partition(".")[0]
    extra = EXTRA_OF.get(package)
    if extra is None:
        return None
    return f"this needs the package {package}, which is not installed; {install_line(extra)}"
