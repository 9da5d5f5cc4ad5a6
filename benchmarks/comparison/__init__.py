"""What the benchmarks of kernels and of networks share: both sides of a comparison, and timing in turns."""
