"""Parameter stores: where θ, the optimiser's statistics and T live, and who may write them when."""
