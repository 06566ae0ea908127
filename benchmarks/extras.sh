#!/usr/bin/env bash
# Installs each extra alone, in its newest versions, and uses it: does it install cleanly, and is it enough by itself?
# Usage: benchmarks/extras.sh [EXTRA ...]
# Each has an environment of its own over one with PyTorch and a3c. The outcome goes to benchmarks/results/extras.txt.
set -uo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- atari box2d mujoco minatar envpool ray wandb video
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
packages() { "$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }
"${PYTHON:-python3}" -m venv "$place/base"
"$place/base/bin/pip" install -qq --constraint constraints.txt torch
"$place/base/bin/pip" install -qq .

train() { a3c train "$@" --total-env-steps 2000 --overwrite --quiet --run-dir run && a3c evaluate run --episodes 2; }

use() {
    case "$1" in
    atari) train ALE/Pong-v5 ;;
    box2d) train LunarLander-v3 && train BipedalWalker-v3 ;;
    mujoco) train HalfCheetah-v5 && train Hopper-v5 && train Walker2d-v5 ;;
    minatar) train MinAtar/Breakout-v1 ;;
    envpool) train envpool:CartPole-v1 ;;
    ray) train CartPole-v1 --runtime ray ;;
    wandb) train CartPole-v1 --wandb --wandb-mode offline ;;
    video) train CartPole-v1 && a3c record run --out film.mp4 && a3c record run --out film.gif ;;
    esac
}

{
    echo "commit $(git describe --always --dirty --abbrev=12), $("$place/base/bin/python" --version)," \
        "$("$place/base/bin/python" -m pip list --format freeze --disable-pip-version-check | grep '^gymnasium=')"
    for extra; do
        printf '\n== a3c[%s]\n' "$extra"
        "$place/base/bin/python" -m venv "$place/$extra"
        packages "$place/base" >"$(packages "$place/$extra")/base.pth"
        "$place/$extra/bin/python" -m pip install -qq --disable-pip-version-check ".[$extra]" || echo "NOT INSTALLED"
        "$place/$extra/bin/python" -m pip list --path "$(packages "$place/$extra")" --format freeze \
            --disable-pip-version-check | grep -v '^pip=\|^setuptools=\|^a3c' | paste -sd ' '
        mkdir "$place/$extra/work"
        (cd "$place/$extra/work" && PATH="$place/$extra/bin:$PATH" use "$extra") || echo "DOES NOT WORK"
        rm -rf "${place:?}/$extra"
    done
} 2>&1 | tee benchmarks/results/extras.txt
