"""The advantage actor-critic: A3C or A2C, depending only on the store that it pushes to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from a3c.core.finite import first_non_finite
from a3c.core.flat import flat_gradient
from a3c.core.losses import Reduction, actor_critic_loss
from a3c.errors import NonFiniteError
from a3c.types import Actor, Counts, Model, StoreHandle, Update

MAX_DROPPED_IN_A_ROW = 10


@dataclass(frozen=True)
class ActorCriticSettings:
    """The numbers of Mnih et al. 2016, algorithm S3."""

    rollout_length: int  # t_max
    discount: float  # γ
    lambda_: float  # λ; 1 in the paper
    entropy_coef: float  # β
    value_coef: float  # 0.5 in the authors' code
    reduction: Reduction  # "sum" over t in the paper


def actor_learner(settings: ActorCriticSettings, actor: Actor, model: Model, store: StoreHandle) -> Iterator[Update]:
    """One actor-learner; each `next` is one turn of the paper's loop, up to and including its push.

    A rollout that holds a NaN or an infinity anywhere is counted and dropped: θ never sees it.

    Raises:
        NonFiniteError: ten rollouts in a row were dropped.
    """
    dropped_in_a_row = 0
    normaliser = model.normaliser
    while not (snapshot := store.pull(model.flat)).stop:  # θ' <- θ, while T < T_max
        normaliser.load(snapshot.moments)
        rollout = actor.unroll(settings.rollout_length)  # t_max steps of B environments
        if not rollout.env_steps:
            continue  # the environments merely reset: nothing to learn from
        loss = actor_critic_loss(
            model(rollout),
            rollout,
            normaliser.rewards(rollout),
            model.distribution,
            discount=settings.discount,
            lambda_=settings.lambda_,
            entropy_coef=settings.entropy_coef,
            value_coef=settings.value_coef,
            reduction=settings.reduction,
        )
        gradient = flat_gradient(loss, model)  # dθ
        episodes = actor.finished_episodes()
        counts = Counts(rollout.env_steps, len(episodes))
        if (term := first_non_finite(rollout, loss, gradient)) is None:
            counts = counts._replace(moments=normaliser.deltas(rollout))
            receipt = store.push(gradient, counts, snapshot.version)  # θ, g, T
            yield Update(loss.terms(), counts.env_steps, snapshot.env_steps, episodes, receipt)
            dropped_in_a_row = 0
        else:
            actor.reset_state()
            normaliser.forget_returns()
            receipt = store.push(None, counts, snapshot.version)  # T alone
            reason = f"non-finite {term} at env step {snapshot.env_steps:,}"
            yield Update({}, counts.env_steps, snapshot.env_steps, episodes, receipt, dropped=reason)
            dropped_in_a_row += 1
            if dropped_in_a_row == MAX_DROPPED_IN_A_ROW:
                raise NonFiniteError(
                    f"{dropped_in_a_row} rollouts in a row were dropped, the last for a {reason}: mend the "
                    "environment, or, if its numbers are finite, take a lower learning rate"
                )
