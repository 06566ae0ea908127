#!/usr/bin/env bash
# Runs what the test suite skips where EnvPool is missing, and trains on it, in an environment of its own (EnvPool's
# wheels take some 300 MB, so CI does not).
# Usage: benchmarks/envpool.sh [ENVIRONMENT]
# The outcome goes to benchmarks/results/envpool.txt.
set -euo pipefail
cd "$(dirname "$0")/.."
environment="${1:-$(mktemp -d)/venv}"
[ -x "$environment/bin/python" ] || "${PYTHON:-python3}" -m venv "$environment"
"$environment/bin/pip" install --quiet --constraint constraints.txt torch
"$environment/bin/pip" install --quiet --constraint constraints.txt pytest pytest-timeout pytest-xdist hypothesis scipy
"$environment/bin/pip" install --quiet --constraint constraints.txt ".[envpool,atari]"
runs="$(mktemp -d)"
{
    echo "commit $(git describe --always --dirty --abbrev=12)"
    "$environment/bin/python" -c "
from importlib.metadata import version
print(*(f'{name} {version(name)}' for name in ('envpool', 'gymnasium', 'numpy', 'torch')), sep=', ')"
    "$environment/bin/python" -m pytest -q -p no:cacheprovider -W default -n 0 tests/envs/test_envpool.py \
        tests/experiment/test_presets.py | tail -3
    for env in CartPole-v1 Pong-v5; do
        steps=1000000
        [ "$env" = Pong-v5 ] && steps=50000 # that it runs; Pong takes millions
        "$environment/bin/a3c" train "envpool:$env" --seed 1000 --total-env-steps "$steps" --run-dir "$runs/$env" --quiet
        "$environment/bin/a3c" evaluate "$runs/$env" --json
    done
} | tee benchmarks/results/envpool.txt
