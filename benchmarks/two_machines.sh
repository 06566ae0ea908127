#!/usr/bin/env bash
# Walks docs/cluster.md through on two hosts: namespaces of this machine, joined by a cable of their own, each with its
# own network, processes, /tmp and home, so that only a token file goes from one to the other. Nothing leaves this
# machine, and what else runs on it is left alone. Wants Linux, root, iproute2, procps, and .venv (scripts/setup test).
# Usage: benchmarks/two_machines.sh [STEPS]
set -euo pipefail
cd "$(dirname "$0")/.."
steps=${1:-1_000_000}
one=a3c-one two=a3c-two
homes=$(mktemp -d -p /var/tmp) # not below /tmp, which each host has for itself
export PATH=$PWD/.venv/bin:$PATH PYTHONPATH=$PWD/src

on() { # HOST COMMAND...: run it there
    local host=$1
    shift
    nsenter --target "${inits[$host]}" --net --mount --pid sh -c \
        "cd '$homes/$host' && exec \"\$@\"" sh env HOME="$homes/$host" RAY_AUTH_MODE=token "$@"
}

declare -A inits # the first process of each host, with whose end all of its processes end
clear_up() {
    kill -9 "${inits[@]}" 2> /dev/null || true
    for host in $one $two; do ip netns del $host 2> /dev/null || true; done
    rm -rf "$homes"
}
trap clear_up EXIT

for host in $one $two; do
    mkdir -p "$homes/$host/tmp"
    ip netns add $host
    ip -n $host link set lo up
    ip netns exec $host unshare --mount --pid --fork --mount-proc \
        sh -c "mount --bind '$homes/$host/tmp' /tmp && exec sleep infinity" 2> /dev/null &
    until inits[$host]=$(pgrep -P $! -x sleep); do sleep 0.1; done
done
ip link add cable-one netns $one type veth peer name cable-two netns $two
ip -n $one addr add 192.0.2.10/24 dev cable-one
ip -n $two addr add 192.0.2.11/24 dev cable-two
ip -n $one link set cable-one up
ip -n $two link set cable-two up

echo "commit $(git log -1 --format=%h), $(uname -sm), $(nproc) cores for both hosts"
say() { printf '\n$ %s\n' "$*"; }
share=(--num-cpus=2 --object-store-memory=100000000 --include-dashboard=false)
say "both: export RAY_AUTH_MODE=token"
say "one: ray get-auth-token --generate   (and its file is copied to two)"
on $one ray get-auth-token --generate > /dev/null 2>&1
mkdir -p "$homes/$two/.ray"
cp "$homes/$one/.ray/auth_token" "$homes/$two/.ray/"
say "one: ray start --head --port=6379"
on $one ray start --head --port=6379 --node-ip-address=192.0.2.10 "${share[@]}" 2>&1 | grep -o "Local node IP.*"
say "two: ray start --address=192.0.2.10:6379"
on $two ray start --address=192.0.2.10:6379 --node-ip-address=192.0.2.11 --num-cpus=2 \
    --object-store-memory=100000000 2>&1 | grep -o "Local node IP.*"
sleep 5
say "one: ray status"
on $one ray status | grep -A4 -E "^Active:|CPU$"
say "one: a3c train LunarLander-v3 --runtime ray --workers 4 --run-dir runs/lander --total-env-steps $steps"
on $one a3c train LunarLander-v3 --runtime ray --workers 4 --run-dir runs/lander --total-env-steps "$steps" &
run=$!
until grep -q env_steps "$homes/$one/runs/lander/metrics.jsonl" 2> /dev/null || ! kill -0 $run; do sleep 0.5; done
for host in $one $two; do
    echo "(meanwhile on $host:" $(on $host ps -eo args= |
        grep -oE "ray::(RayWorker|ParameterServer|RayKeeper)" | sort | uniq -c)")"
done
wait $run
say "one: a3c evaluate runs/lander"
on $one a3c evaluate runs/lander
say "one: a3c train my_envs:Pole --runtime ray --workers 4 --ray-runtime-env '{\"working_dir\": \".\"}'   (two has no my_envs.py)"
on $one mkdir code
cat > "$homes/$one/code/my_envs.py" << 'PYTHON'
import gymnasium


def Pole():
    return gymnasium.make("CartPole-v1")
PYTHON
on $one sh -c 'cd code && a3c train my_envs:Pole --runtime ray --workers 4 --envs-per-worker 8 --total-env-steps 20_000 \
    --ray-runtime-env "{\"working_dir\": \".\"}" --run-dir ../runs/pole'
