"""What computes a graph, of an encoder or of a tree: torch, OpenVINO or onnxruntime. Each file imports its library."""
