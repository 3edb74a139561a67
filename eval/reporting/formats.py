"""The forms of a table of runs, as `eval.table --format` names them."""

FORMATS = ("text", "markdown", "csv")
