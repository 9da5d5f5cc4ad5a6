"""Networks that come as files, ONNX or exported programs, pruned or not: read at fixed shapes, as torch modules."""
