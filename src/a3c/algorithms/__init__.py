"""One file an algorithm, each reading like the paper's pseudocode."""
