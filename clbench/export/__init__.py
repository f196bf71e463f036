"""Networks of single tasks, taken out of a run: plain PyTorch, ONNX, and what they cost beside the whole network."""
