#!/usr/bin/env bash
# Runs the tests of everything between an environment and a trained policy on the oldest PyTorch and Gymnasium that
# pyproject.toml allows, in an environment of its own (a few GB, so CI does not).
# Usage: benchmarks/oldest_torch.sh [ENVIRONMENT]
# Needs a Python that PyTorch 2.4 has wheels for: PYTHON=python3.10, say. The outcome goes to
# benchmarks/results/oldest-torch.txt.
set -euo pipefail
cd "$(dirname "$0")/.."
environment="${1:-$(mktemp -d)/venv}"
[ -x "$environment/bin/python" ] || "${PYTHON:-python3}" -m venv "$environment"
"$environment/bin/pip" install --quiet torch==2.4.0 gymnasium==1.1.0 \
    pytest pytest-timeout pytest-xdist hypothesis scipy mpmath setuptools
"$environment/bin/pip" install --quiet .
{
    echo "commit $(git describe --always --dirty --abbrev=12)"
    "$environment/bin/python" -c "
import sys, torch, gymnasium, numpy
print('python', sys.version.split()[0], 'torch', torch.__version__, 'gymnasium', gymnasium.__version__, 'numpy', numpy.__version__)"
    "$environment/bin/python" -m pytest -q -p no:cacheprovider -W default -n auto tests/core tests/stores \
        tests/contracts tests/spaces tests/models tests/envs tests/test_actor.py tests/test_algorithm.py \
        tests/test_recurrence.py tests/experiment/test_train.py tests/experiment/test_policy.py \
        -k "not wandb and not stable_baselines3 and not sb3" | tail -15
} | tee benchmarks/results/oldest-torch.txt
