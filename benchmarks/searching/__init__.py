"""Problems, rivals and recordings of ``benchmarks/search.py``."""
