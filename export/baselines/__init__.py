"""What other libraries make of the same float model, for one table.

There is a file for each component, under the same names. The libraries read the exported float
graphs, or the torch modules, and know nothing of passes; so they are no passes, and a model file
cannot hold what they make. `python -m export.baselines` writes the files, and
tests/bench/bench_quantisation.py prints the table. Plain min-max is the quantize pass itself
(`method: minmax`).

- `methods`: the table of methods, and what each is given.
- `make`: from a model to the files of one method.
- `ort`, `nncf_onnx`, `pt2e`, `weight_only`: one file a library.
"""
