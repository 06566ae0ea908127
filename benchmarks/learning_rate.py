"""A3C and A2C on equal terms: the same W x B, the same grid of learning rates, several seeds each, on CartPole-v1.

    python benchmarks/learning_rate.py --seeds 5

A2C makes W times fewer updates of W times more steps, so each may have a best rate of its own. Everything but the
rate is the preset's, its number of workers too. On this grid all seeds of both are solved and both are slowest at the
lowest rate, so the preset has one rate for both. Results go to benchmarks/results/learning-rate.*.
"""

from __future__ import annotations

import argparse

from cartpole import measure, save

GRID = [4e-3, 8e-3, 1.6e-2, 3.2e-2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=1000, help="apart from the seeds of benchmarks/cartpole.py")
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    results = [
        measure(
            f"{algorithm.upper()}, rate {rate:g}", ["--algorithm", algorithm, "--learning-rate", f"{rate:g}"], seeds
        )
        for rate in GRID
        for algorithm in ("a3c", "a2c")
    ]
    save("learning-rate", results)


if __name__ == "__main__":
    main()
