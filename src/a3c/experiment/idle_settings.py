"""Settings that would change nothing of an environment: they are refused, not ignored."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from gymnasium import spaces

from a3c.config import flag
from a3c.envs.make import EnvFacts
from a3c.errors import UsageError
from a3c.spaces.images import image_layout
from a3c.spaces.parts import basic_parts, is_mask


def refuse_idle(named: Collection[str], facts: EnvFacts) -> None:
    """Raise UsageError where one of the settings that the user named changes nothing of this environment."""
    for reason, settings in _idle_settings(facts):
        if idle := sorted(settings & set(named)):
            raise UsageError(f"{flag(idle[0])} changes nothing of {facts.name!r}, {reason}: leave it out")


def _idle_settings(facts: EnvFacts) -> Iterator[tuple[str, set[str]]]:
    if not facts.source.is_atari:
        yield (
            "which is no Atari game",
            {"atari_preprocessing", "sticky_actions", "full_action_set", "life_loss_ends"},
        )
    actions = basic_parts(facts.action_space, "the action space").values()
    if not any(isinstance(part, spaces.Box) for part in actions):
        yield "whose actions are no numbers", {"action_bounding", "log_std", "initial_log_std", "noise_steps"}
    observed = basic_parts(facts.observation_space, "the observation space")
    if [image_layout(part) is not None for path, part in observed.items() if not is_mask(path)] == [True]:
        yield "whose observations are images alone", {"hidden_sizes", "activation"}
