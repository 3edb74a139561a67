"""The runtimes that a model can be exported for: a table, one file a target, one way through.

- `contract`: what a target is, what it is given and what it makes.
- `table`: all targets, and what is refused before a model is loaded.
- `parts`: the graphs of a model at a fixed shape, chosen and checked.
- `to_NAME`: what writes the files of one target.
- `manifest`: manifest.json and the host program of an exported folder.
- `export_folder`: from a model to a verified folder.
- `host`: the program that is copied into an exported folder.
"""
