"""How one actor-learner is put together; it travels to the process that runs it."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from a3c.actor import Actor
from a3c.algorithms.actor_critic import ActorCriticSettings, actor_learner
from a3c.core.flat import is_flattened
from a3c.core.seeding import WorkerSeeds, model_seed, worker_seeds
from a3c.envs.make import AnyVectorEnv, EnvSource, reset_seed
from a3c.experiment.policy_spec import PolicySpec
from a3c.models.actor_critic import ActorCritic
from a3c.models.numpy_acting import acting_policy
from a3c.types import Life, StoreHandle, Update

FIRST_LIFE = Life()


@dataclass(frozen=True)
class ActorLearnerRecipe:
    """Makes the actor-learner of any worker: `recipe(worker, store_handle, life)`.

    `incarnation` is that of a worker's first life; later ones count from there.
    """

    source: EnvSource
    spec: PolicySpec
    settings: ActorCriticSettings
    envs_per_worker: int
    noise_steps: int
    end_rollout_at_episode_end: bool
    device: str
    seed: int
    incarnation: int = 0
    seed_libraries: bool = False  # also the global streams, where the process is the worker's own

    def __call__(self, worker: int, store: StoreHandle, life: Life = FIRST_LIFE) -> Generator[Update, None, None]:
        """The actor-learner; its environments are closed when it ends."""
        with self.made(worker, life) as (actor, model):
            yield from actor_learner(self.settings, actor, model, store)

    def env_seed(self, worker: int, envs: AnyVectorEnv, life: Life = FIRST_LIFE) -> int | list[int]:
        """What a worker's environments are seeded with."""
        seeds = self._seeds(worker, life)
        return reset_seed(envs, seeds.environments, seeds.vector_environment)

    @contextlib.contextmanager
    def made(self, worker: int, life: Life = FIRST_LIFE) -> Iterator[tuple[Actor, ActorCritic]]:
        """A worker's actor, with environments that are closed in the end, and its network."""
        seeds = self._seeds(worker, life)
        if self.seed_libraries:
            random.seed(seeds.libraries)
            np.random.seed(seeds.libraries)
            torch.manual_seed(seeds.libraries)
        envs = self.source.make_vector(self.envs_per_worker)
        try:
            model = self.spec.build(seed=model_seed(self.seed), device=self.device)
            assert is_flattened(model, model.flat), "a pull would miss the network"
            length = self.settings.rollout_length
            act = acting_policy(model, seeds.actions, noise_steps=self.noise_steps, steps=length, lanes=envs.num_envs)
            actor = Actor(
                envs,
                act,
                self.spec.actions,
                seed=self.env_seed(worker, envs, life),
                max_rollout_length=length,
                end_at_episode_end=self.end_rollout_at_episode_end,
                beat=life.beat,
                passes=act.passes,
            )
            yield actor, model
        finally:
            envs.close()

    def _seeds(self, worker: int, life: Life) -> WorkerSeeds:
        return worker_seeds(self.seed, worker, self.incarnation + life.incarnation, self.envs_per_worker)
