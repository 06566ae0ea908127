#!/usr/bin/env bash
# Runs the core, store, actor and algorithm tests on the oldest PyTorch and Gymnasium that pyproject.toml allows, in
# an environment of its own (a few GB, so CI does not). Usage: benchmarks/oldest_torch.sh [ENVIRONMENT]
# Needs a Python that PyTorch 2.4 has wheels for: PYTHON=python3.10, say. The outcome goes to
# benchmarks/results/oldest-torch.txt.
set -euo pipefail
cd "$(dirname "$0")/.."
environment="${1:-$(mktemp -d)/venv}"
[ -x "$environment/bin/python" ] || "${PYTHON:-python3}" -m venv "$environment"
"$environment/bin/pip" install --quiet torch==2.4.0 gymnasium==1.1.0 pytest pytest-timeout hypothesis setuptools
"$environment/bin/pip" install --quiet .
{
    echo "commit $(git describe --always --dirty --abbrev=12)"
    "$environment/bin/python" -c "
import sys, torch, gymnasium, numpy
print('python', sys.version.split()[0], 'torch', torch.__version__, 'gymnasium', gymnasium.__version__, 'numpy', numpy.__version__)"
    "$environment/bin/python" -m pytest -q -p no:cacheprovider -W default tests/core tests/stores tests/contracts \
        tests/test_actor.py tests/test_algorithm.py tests/test_models.py tests/experiment/test_train.py \
        --ignore-glob='*wandb*' -k "not wandb and not stable_baselines3 and not sb3" | tail -15
} | tee benchmarks/results/oldest-torch.txt
