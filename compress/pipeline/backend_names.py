"""What a photograph can be computed by, as --backend names it."""

# `auto` takes onnxruntime where the run's ONNX files are there and verified, else torch.
BACKENDS = ("auto", "onnxruntime", "torch")
