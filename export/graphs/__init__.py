"""From torch to ONNX: what is exported, how it is translated, checked, stored and read again."""
