"""Masks: from infos into the observation, whatever the form they are told in."""

from __future__ import annotations

import pickle
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv

from a3c.envs.action_mask import ActionMask, flat_mask, mask_size
from a3c.envs.checks import check_spaces
from a3c.envs.make import EnvSource, examine
from a3c.errors import UnsupportedEnvironment
from a3c.spaces.parts import ACTION_MASK

BOX = spaces.Box(-1, 1, (2,))
TAXI = max(name for name in gym.registry if name.startswith("Taxi-v"))
PAIR = spaces.MultiDiscrete([2, 3])


class Tells(gym.Env):
    """Tells the masks that it is given, one at the reset and one a step, in its infos; None tells nothing."""

    def __init__(self, masks, action_space=None, observation_space=BOX) -> None:
        self.masks = masks
        self.action_space = spaces.Discrete(3) if action_space is None else action_space
        self.observation_space = observation_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.observation_space.sample(), self._info()

    def step(self, action):
        self.steps += 1
        return self.observation_space.sample(), 0.0, self.steps == len(self.masks) - 1, False, self._info()

    def _info(self):
        mask = self.masks[self.steps]
        return {"other": 1} if mask is None else {"other": 1, ACTION_MASK: mask}


def folded(*masks, **spaces_):
    """The masks in the observations of one episode, [T+1, n]."""
    env = ActionMask(Tells(masks, **spaces_), "Tells-v0")
    assert env.observation_space.contains(env.reset(seed=0)[0])
    rows = [env.reset(seed=0)[0][ACTION_MASK]]
    for _ in masks[1:]:
        observation, *_, info = env.step(env.action_space.sample())
        assert env.observation_space.contains(observation)
        assert info == {"other": 1}
        rows.append(observation[ACTION_MASK])
    return [row.tolist() for row in rows]


def test_a_mask_is_folded_into_any_observation():
    one, other = np.array([1, 0, 1], np.int8), np.array([0, 0, 1], bool)
    assert folded(one, other) == [[1, 0, 1], [0, 0, 1]]
    assert folded(one, None) == [[1, 0, 1], [1, 1, 1]]  # an episode's last info may tell none
    assert folded(None, one, None) == [[1, 1, 1], [1, 0, 1], [1, 1, 1]]
    assert folded(one, [0, 1, 0]) == [[1, 0, 1], [0, 1, 0]]
    env = ActionMask(Tells([one, other]), "Tells-v0")
    assert env.observation_space == spaces.Dict(observation=BOX, action_mask=spaces.Box(0, 1, (3,), np.int8))


def test_a_dict_observation_gets_one_part_more():
    space = spaces.Dict(a=BOX, b=spaces.Dict(c=spaces.Discrete(2)))
    env = ActionMask(Tells([np.ones(3, np.int8)] * 2, observation_space=space), "Tells-v0")
    assert env.observation_space == spaces.Dict(
        a=BOX, b=spaces.Dict(c=spaces.Discrete(2)), action_mask=spaces.Box(0, 1, (3,), np.int8)
    )
    assert folded(np.ones(3, np.int8), np.zeros(3, np.int8), observation_space=space) == [[1, 1, 1], [0, 0, 0]]


def test_masks_in_the_forms_that_gymnasium_samples_with():
    first, second = np.array([0, 1], np.int8), np.array([1, 1, 0], np.int8)
    assert flat_mask("x", PAIR, (first, second)).tolist() == [0, 1, 1, 1, 0]
    assert flat_mask("x", PAIR, np.array([0, 1, 1, 1, 0])).tolist() == [0, 1, 1, 1, 0]
    grid = spaces.MultiDiscrete([[2, 3], [2, 2]])
    nested = ((first, second), (first, np.array([1, 0], np.int8)))
    grid.sample(mask=nested)  # it is one
    assert flat_mask("x", grid, nested).tolist() == [0, 1, 1, 1, 0, 0, 1, 1, 0]
    both = spaces.Dict(z=spaces.Discrete(3), a=spaces.Tuple([PAIR, spaces.Discrete(2)]))
    mask = {"a": ((first, second), None), "z": second}
    both.sample(mask=mask)
    assert list(both.spaces) == ["z", "a"]  # the order that counts
    assert flat_mask("x", both, mask).tolist() == [1, 1, 0, 0, 1, 1, 1, 0, 1, 1]
    assert mask_size("x", both) == 10
    assert flat_mask("x", both, None).tolist() == [1] * 10


@pytest.mark.parametrize(
    ("action_space", "mask", "message"),
    [
        (spaces.Discrete(3), np.ones(4), r"of size \[4\], and its action space has \[3\] choices"),
        (spaces.Discrete(3), (np.ones(1), np.ones(2)), r"of size \[1, 2\], and its action space has \[3\]"),
        (PAIR, (np.ones(3), np.ones(2)), r"of size \[3, 2\], and its action space has \[2, 3\]"),
        (PAIR, np.ones(6), r"of size \[6\], and its action space has \[2, 3\]"),
        (spaces.Tuple([PAIR]), np.ones((0, 5)), "not nested like its action space"),
        (spaces.Dict(a=PAIR), {"b": np.ones(5)}, "not nested like its action space"),
        (spaces.Dict(a=PAIR), 1, "not nested like its action space"),
    ],
)
def test_a_mask_that_does_not_fit(action_space, mask, message):
    with pytest.raises(UnsupportedEnvironment, match=rf"info\[\"action_mask\"\] of 'x' is {message}"):
        flat_mask("x", action_space, mask)


def test_a_mask_that_is_missing_in_the_middle_of_an_episode():
    one = np.array([1, 0, 1], np.int8)
    assert folded(one, one, None) == [[1, 0, 1], [1, 0, 1], [1, 1, 1]]
    env = ActionMask(Tells([one, None, one]), "Tells-v0")
    env.reset()
    with pytest.raises(UnsupportedEnvironment, match="'Tells-v0' had an action_mask in its info at its reset and none"):
        env.step(0)


def test_a_mask_that_does_not_fit_is_found_before_the_run():
    with pytest.raises(UnsupportedEnvironment, match=r"action_mask.* is of size \[4\], and its action space has \[3\]"):
        examine(EnvSource(partial(Tells, [np.ones(4, np.int8)] * 2)))


@pytest.mark.parametrize("action_space", [BOX, spaces.MultiBinary(3), spaces.Dict(a=spaces.Discrete(2), b=BOX)])
def test_only_choices_can_be_masked(action_space):
    source = EnvSource(lambda: Tells([np.ones(2)] * 2, action_space))
    with pytest.raises(UnsupportedEnvironment, match="masks its actions.*only Discrete and MultiDiscrete"):
        examine(source)
    deaf = EnvSource(lambda: Tells([np.ones(2)] * 2, action_space), action_mask=False)
    assert examine(deaf).observation_space == BOX


def test_a_mask_that_the_observation_holds_already_stays():
    def space(mask):
        return spaces.Dict(a=BOX, action_mask=mask)

    held = space(spaces.MultiBinary(3))
    facts = examine(EnvSource(lambda: Tells([np.ones(3)] * 2, observation_space=held)))
    assert facts.observation_space == held
    assert facts.source.action_mask is False
    told = EnvSource(lambda: Tells([np.ones(3)] * 2, observation_space=held), action_mask=True)
    assert told.make().observation_space == held
    check_spaces("x", space(spaces.Box(0, 1, (5,), np.int8)), PAIR)
    for mask, message in [
        (spaces.Box(0, 1, (4,), np.int8), r"of 'x' is of size \[4\], and its action space has \[3\] choices"),
        (spaces.Box(0, 1, (3, 1), np.int8), r"of 'x' is of size \[3, 1\], and its action space has \[3\]"),
        (spaces.Discrete(3), r"of 'x' is Discrete\(3\): a Box \[3\] is wanted"),
    ]:
        with pytest.raises(UnsupportedEnvironment, match=f"the action mask in the observation {message}"):
            check_spaces("x", space(mask), spaces.Discrete(3))
    with pytest.raises(UnsupportedEnvironment, match="only Discrete and MultiDiscrete can be masked"):
        check_spaces("x", held, BOX)


def test_taxi_masks_its_actions():
    facts = examine(EnvSource(TAXI))
    assert facts.source.action_mask is True
    assert facts.observation_space == spaces.Dict(
        observation=spaces.Discrete(500), action_mask=spaces.Box(0, 1, (6,), np.int8)
    )
    envs = facts.source.make_vector(2)
    observation, _ = envs.reset(seed=[1, 2])
    raw = gym.make(TAXI)
    for lane, seed in enumerate((1, 2)):
        state, info = raw.reset(seed=seed)
        assert observation["observation"][lane] == state
        assert observation[ACTION_MASK][lane].tolist() == info[ACTION_MASK].tolist()
    assert 0 in observation[ACTION_MASK]
    # A masked action leaves Taxi's state as it is; an allowed move changes it.
    for _ in range(20):
        before = observation
        before = {key: value.copy() for key, value in before.items()}
        moves = [int(np.flatnonzero(row[:4])[0]) for row in before[ACTION_MASK]]
        observation, *_ = envs.step(np.array(moves))
        assert (observation["observation"] != before["observation"]).all()


def test_what_was_found_out_goes_to_the_workers():
    made = []

    def make():
        made.append(1)
        return Tells([np.ones(3, np.int8)] * 3)

    source = examine(EnvSource(make)).source
    assert source.action_mask is True
    made.clear()
    envs = source.make_vector(2)
    assert len(made) == 2  # and none to find out again
    assert set(envs.reset()[0]) == {"observation", ACTION_MASK}
    assert set(EnvSource(make).make_vector(2).reset()[0]) == {"observation", ACTION_MASK}
    assert set(EnvSource(make).make().reset()[0]) == {"observation", ACTION_MASK}
    assert pickle.loads(pickle.dumps(EnvSource(TAXI, action_mask=True))).action_mask is True


def test_an_environment_that_tells_no_mask_stays_native():
    source = examine(EnvSource("CartPole-v1")).source
    assert source.action_mask is False
    assert isinstance(source.make_vector(8).unwrapped, CartPoleVectorEnv)


def test_a_mask_that_comes_later_is_not_dropped_in_silence():
    class Late(Tells):
        def reset(self, *, seed=None, options=None):
            return super().reset(seed=seed)[0], {}

    source = examine(EnvSource(lambda: Late([np.ones(3, np.int8)] * 3))).source
    assert source.action_mask is False
    envs = source.make_vector(2)
    envs.reset()
    with pytest.raises(UnsupportedEnvironment, match="has an action_mask in this info, and had none"):
        envs.step(np.zeros(2, np.int64))
