"""Torch module -> fused graph -> kernels -> one plain library; the only importer of TVM."""
