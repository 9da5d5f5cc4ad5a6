"""One config, one reproducible run: what the commands do, without the terminal."""
