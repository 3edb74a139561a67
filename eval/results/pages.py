"""The pages of docs/results and the numbers of the README, rendered from files of results.

A template is Markdown with Jinja. It has these functions:

    measured(name)              whether there is a file
    table(name, **where)        its rows, those with the given values alone
    pivot(name, keys, across, value)  its rows with a column for each value of the key `across`
    result(name, **where)       command, table and how it came about
    command(name)               the command that makes it again
    made(name)                  how it came about, and whether it is stale
    rows(name, **where)         its rows, for sentences
    value(name, key, **where)   a value of the one row that fits, as its column shows it
    overview()                  all measurements, with what is known of each
    full_sizes()                sources at full size by recipes and targets, and why cells are empty
    on_gpus()                   embedded models by GPUs and delegates
    limits()                    how large a part may be, by target

A sentence that compares is made of rows. None may claim what other numbers would make false.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from compress.core import markdown
from compress.core.errors import UserError
from compress.core.wrapping import wrap
from eval.results import datafile, full_size_grid, gpu_grid, said
from eval.results.datafile import Data
from eval.results.measurement import Measurement
from eval.results.provenance import RESULTS
from eval.results.staleness import reasons, unmeasured
from export.targets.file_limits import file_limits

TEMPLATES = Path(__file__).parent / "pages"
HEAD = "<!-- Written by eval.results --render from eval/results/pages/{}. Do not edit. -->"
README = "README.md"
MARKED = re.compile(r"(<!-- results: (\w+) -->\n)(.*?)((?:> )?<!-- end of results -->)", re.S)
Rows = list[dict[str, Any]]


class Pages:
    """Renders templates from the files of results in one folder."""

    def __init__(self, measurements: Mapping[str, Measurement], root: Path, results: Path):
        """Read the files.

        Args:
            measurements: All there are.
            root: The clone, whose weights and recipes are the current ones.
            results: The folder of the files.
        """
        self.measurements = measurements
        self.root = root
        self.data: dict[str, Data] = {}
        for name in measurements:
            file = results / f"{name}.json"
            if file.is_file():
                self.data[name] = datafile.read(file)
        self._environment = Environment(
            loader=FileSystemLoader(TEMPLATES),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            autoescape=False,
        )
        functions = (
            self.measured,
            self.table,
            self.pivot,
            self.result,
            self.command,
            self.made,
            self.rows,
            self.value,
            self.overview,
            self.full_sizes,
            self.limits,
            self.on_gpus,
        )
        self._environment.globals.update({f.__name__: f for f in functions})

    def _measurement(self, name: str) -> Measurement:
        if name not in self.measurements:
            raise UserError(f"no measurement is called {name}")
        return self.measurements[name]

    def measured(self, name: str) -> bool:
        """Whether there is a file."""
        return self._measurement(name).name in self.data

    def rows(self, name: str, **where: Any) -> Rows:
        """The rows whose columns have the given values."""
        self._measurement(name)
        if name not in self.data:
            return []
        return [
            row
            for row in self.data[name]["rows"]
            if all(row.get(key) == value for key, value in where.items())
        ]

    def value(self, name: str, key: str, **where: Any) -> str:
        """A value of the one row that fits, as its column shows it."""
        rows = self.rows(name, **where)
        if len(rows) != 1:
            raise UserError(f"{name} has {len(rows)} rows with {where}, not one")
        columns = {column.key: column for column in self._measurement(name).columns}
        return said.cell(rows[0][key], columns[key])

    def table(self, name: str, **where: Any) -> str:
        """The rows as a table, or that they are not measured yet."""
        measurement = self._measurement(name)
        if name not in self.data:
            return "*Not measured yet.*"
        return said.table(self.rows(name, **where), measurement.columns)

    def pivot(self, name: str, keys: list[str], across: str, value: str) -> str:
        """The rows with a column for each value of `across`, or that they are not measured yet."""
        measurement = self._measurement(name)
        if name not in self.data:
            return "*Not measured yet.*"
        columns = {column.key: column for column in measurement.columns}
        return said.pivot(self.rows(name), tuple(columns[key] for key in keys), across, value)

    def result(self, name: str, **where: Any) -> str:
        """Command, table and how it came about."""
        return "\n\n".join((self.command(name), self.table(name, **where), self.made(name)))

    def command(self, name: str) -> str:
        """The command that makes it again."""
        return said.command(self._measurement(name))

    def made(self, name: str) -> str:
        """How it came about, and whether it is stale."""
        measurement = self._measurement(name)
        if name not in self.data:
            return "*Not measured yet.*"
        return said.provenance(self.data[name], measurement, self.root)

    def overview(self) -> str:
        """All measurements: page, state, time."""
        rows = []
        for name, measurement in self.measurements.items():
            state, took = self.state(name)
            link = f"[{measurement.title}]({measurement.page}.md)"
            rows.append([f"`{name}`", link, state, took])
        return markdown.table(["name", "what it measures", "state", "took"], rows)

    def full_sizes(self) -> str:
        """Sources at full size by recipes and targets, and below it why cells have no job."""
        return "\n\n".join((full_size_grid.grid(self.data), full_size_grid.reasons()))

    def on_gpus(self) -> str:
        """Embedded models by GPUs and delegates: how much of each stays on the CPU.

        What is stale has a dash.
        """
        current = {
            name: data
            for name, data in self.data.items()
            if not reasons(data, self._measurement(name), self.root)
        }
        return gpu_grid.grid(current)

    def limits(self) -> str:
        """How large one part of an export may be."""
        rows = [
            [limit.target, f"{limit.bytes / 1e6:,.0f}", limit.what, limit.source]
            for limit in file_limits().values()
        ]
        return markdown.table(["target", "at most, MB", "what has that limit", "source"], rows)

    def state(self, name: str) -> tuple[str, str]:
        """(what is known of a measurement, the time it took, or about takes)."""
        measurement = self._measurement(name)
        if name not in self.data:
            return "not measured yet", f"about {said.seconds(measurement.hours * said.HOUR)}"
        data = self.data[name]
        why = reasons(data, measurement, self.root)
        day = max(job["date"] for job in data["jobs"])
        took = said.seconds(sum(job["seconds"] for job in data["jobs"]))
        if why:
            return f"stale, {day}", took
        lacking = len(unmeasured(data, measurement))
        done = len(data["jobs"])
        return (f"{done} of {done + lacking}, {day}" if lacking else day), took

    def render(self, template: str) -> str:
        """The text of a template, in lines of at most 100 columns."""
        return wrap(self._environment.get_template(template).render())

    def texts(self) -> dict[Path, str]:
        """Path below the root -> text, of every page that has a template, and of the README."""
        texts = {}
        for template in sorted(TEMPLATES.glob("*.md")):
            if not template.name.startswith(f"{README.removesuffix('.md')}."):
                head = HEAD.format(template.name)
                texts[RESULTS / template.name] = f"{head}\n\n{self.render(template.name)}"
        readme = (self.root / README).read_text(encoding="utf-8")
        texts[Path(README)] = MARKED.sub(self._between, readme)
        return texts

    def _between(self, found: re.Match[str]) -> str:
        return found[1] + self.render(f"README.{found[2]}.md") + found[4]


def differing(root: Path, texts: Mapping[Path, str]) -> list[Path]:
    """The files of `texts` that say something else below `root`."""
    return [
        path
        for path, text in texts.items()
        if not (root / path).is_file() or (root / path).read_text(encoding="utf-8") != text
    ]
