"""Publishing a run on the hub: its model, its figures and its card, in one commit."""

import json
from pathlib import Path

import yaml

from compress.core.hub import publishing, repository
from compress.core.marks import MARK_FILE
from compress.recipe.checkpoint import MODEL_FILE, read_header
from compress.recipe.places import without_places
from compress.recipe.run_files import LEDGER, RECIPE
from eval.reporting import rundir
from eval.reporting.hub_card import Said, hub_card

CARD = "README.md"
WIDTH = 100  # characters of a line of recipe.yaml
# Results of evaluations and exports that a report or a curve reads again.
FIGURES = (
    *("eval/*/averages.json", "eval/*/metrics.csv", "eval/*/fidelity.json"),
    *("eval/*/strength*.json", "eval/*/source/averages.json", "eval/*/source/metrics.csv"),
    "*/figures.json",
)


def contents(path: Path, name: str, said: Said, exports: bool = False) -> dict[str, bytes | Path]:
    """What goes to the hub: the path in the repository -> a file or its bytes.

    Paths in the recipe and the ledger lose their places on this machine.

    Args:
        path: A finished run directory.
        name: The repository, `org/name`.
        said: What the user says of the model.
        exports: Whether the folders of exported files go along.

    Raises:
        UserError: It is no finished run, a file of it is damaged, or its terms are not known.
    """
    run = rundir.read(path)
    read_header(path)
    recipe = yaml.safe_dump(without_places(run.recipe), sort_keys=False, width=WIDTH)
    ledger = json.dumps(without_places(run.ledger), indent=1)
    shown = rundir.Run(**{**vars(run), "recipe": without_places(run.recipe), "recipe_yaml": recipe})
    found: dict[str, bytes | Path] = {
        CARD: str(hub_card(shown, name, said)).encode(),
        MODEL_FILE: run.path / MODEL_FILE,
        RECIPE: recipe.encode(),
        LEDGER: ledger.encode(),
    }
    for pattern in FIGURES:
        for file in sorted(run.path.glob(pattern)):
            found[file.relative_to(run.path).as_posix()] = file
    if exports:
        for manifest in sorted(run.path.glob("*/manifest.json")):
            for file in sorted(manifest.parent.rglob("*")):
                if file.is_file() and file.name != MARK_FILE:
                    found[file.relative_to(run.path).as_posix()] = file
    return found


def push(
    path: Path, name: str, said: Said, *, private: bool | None = None, exports: bool = False
) -> str:
    """Publish a run; a repository that is there gets a commit more.

    Args:
        path: A finished run directory.
        name: The repository, `org/name`; it is made where there is none.
        said: What the user says of the model.
        private: Whether a new repository is shown to its owner alone; None as the owner's
            settings say.
        exports: Whether the folders of exported files go along.

    Returns:
        The address of the commit.

    Raises:
        UserError: As `contents`; the name is none, the hub does not answer, or it refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, constants

    repo = repository(name)
    files = contents(path, repo, said, exports)
    additions = [
        CommitOperationAdd(place, str(file) if isinstance(file, Path) else file)
        for place, file in files.items()
    ]
    with publishing(repo):
        api = HfApi(endpoint=constants.ENDPOINT)
        api.create_repo(repo, private=private, exist_ok=True)
        done = api.create_commit(
            repo, additions, commit_message=f"{rundir.read(path).name} by diffusion-sr-compress"
        )
    return str(done.commit_url)
