"""Sample Factory's APPO on CartPole-v1, with the command line that its example for Gymnasium gives. See run.py.

Arguments are Sample Factory's own, and come after the example's.
"""

from __future__ import annotations

import sys
from typing import Any

import gymnasium as gym
from recording import Recorded
from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.envs.env_utils import register_env
from sample_factory.train import run_rl

EXAMPLE = [
    "--env=CartPole-v1",
    "--algo=APPO",
    "--use_rnn=False",
    "--num_envs_per_worker=20",
    "--policy_workers_per_policy=2",
    "--recurrence=1",
    "--with_vtrace=False",
    "--batch_size=512",
    "--reward_scale=0.1",
    "--save_every_sec=10",
    "--experiment_summaries_interval=10",
]


def make_env(name: str, cfg: Any = None, env_config: Any = None, render_mode: str | None = None) -> gym.Env:  # type: ignore[type-arg]
    """As Sample Factory asks for one."""
    return Recorded(gym.make(name, render_mode=render_mode))


def main() -> int:
    register_env("CartPole-v1", make_env)
    arguments = [*EXAMPLE, "--device=cpu", *sys.argv[1:]]
    parser, _ = parse_sf_args(argv=arguments)
    return int(run_rl(parse_full_cfg(parser, arguments)))


if __name__ == "__main__":
    sys.exit(main())
