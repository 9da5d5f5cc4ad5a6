"""What the benchmarks that measure on this computer share: networks as problems, sessions, and files of results."""
