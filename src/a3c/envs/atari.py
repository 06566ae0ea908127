"""Atari games as agents see them: four frames a step, the last four steps' 84 x 84 grey pictures, no-op starts.

Training steps ALE's native vector environment, a recording a single one that gives the same observations and can be
rendered. ale_py is imported when a game is made.

What a step is (Mnih et al. 2015, Methods; Machado et al. 2018): the action is repeated for 4 frames and rewards are
summed; the picture is the pixelwise maximum of the last two frames, in grey, shrunk to 84 x 84 by area; an observation
is the last four pictures, [4, 84, 84] uint8, black where there were none. An episode begins with up to 29 frames of
no-op and is cut off (truncated) after 108,000 frames, half an hour of play. Rewards are the game's own; clipping them
is left to learning.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from numpy.typing import NDArray

from a3c.envs.lookup import missing_extra
from a3c.errors import UsageError
from a3c.types import LIFE_LOST

FRAMES_PER_STEP = 4
_STACK = 4
_SIZE = 84
_NOOPS = 30  # an episode begins with 0 to 29 of them
_MOST_FRAMES, _STICKY = 108_000, 0.25  # where the registration says nothing
_SETTLED = (
    "frameskip",
    "obs_type",
    "repeat_action_probability",
    "full_action_space",
    "continuous",
    "sound_obs",
    "max_num_frames_per_episode",
)


@dataclass(frozen=True)
class AtariOptions:
    """How Atari games are played. Other environments ignore it.

    Args:
        preprocessing: "standard", what is customary today: an episode begins by pressing FIRE where the game has it.
            "paper", as Mnih et al. 2016 did: FIRE is not pressed, nothing is sticky unless it is asked for, and each
            life is an episode to learning (`life_loss_ends`).
        sticky_actions: probability, at each frame, that the action before is repeated. None is what the id says
            ("ALE/Pong-v5" 0.25, as Machado et al. 2018 propose; "PongNoFrameskip-v4" 0), and 0 with "paper".
        full_action_set: all 18 actions instead of those that the game uses.
        life_loss_ends: report each lost life in `info["life_lost"]`, so that learning takes no value to follow it. The
            game goes on, and an episode is the whole game.
    """

    preprocessing: Literal["standard", "paper"] = "standard"
    sticky_actions: float | None = None
    full_action_set: bool = False
    life_loss_ends: bool = False

    @property
    def fire_at_reset(self) -> bool:
        """Whether an episode begins by pressing FIRE."""
        return self.preprocessing == "standard"

    @property
    def reports_lives(self) -> bool:
        """Whether lost lives are reported."""
        return self.life_loss_ends or self.preprocessing == "paper"

    def stickiness(self, by_the_id: float) -> float:
        """The probability that an action is repeated, where the id says `by_the_id`."""
        if self.sticky_actions is not None:
            return self.sticky_actions
        return 0.0 if self.preprocessing == "paper" else by_the_id


def is_atari(spec: EnvSpec) -> bool:
    """Whether what is registered is one of ALE's games."""
    return spec.entry_point == "ale_py.env:AtariEnv"


def plays_natively(spec: EnvSpec) -> bool:
    """Whether the native vector environment can play what is registered: no other mode or difficulty of the game."""
    return set(spec.kwargs) <= {"game", *_SETTLED} and not spec.additional_wrappers


def make_game(
    spec: EnvSpec,
    options: AtariOptions,
    max_episode_steps: int | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    render_mode: str | None = None,
) -> gym.Env[Any, Any]:
    """One game, whose observations are those of `make_games`.

    Raises UsageError if `env_kwargs` names what `options` settle.
    """
    _import_ale()
    env_kwargs = dict(env_kwargs or {})
    for name in _SETTLED:
        if name in env_kwargs:
            raise UsageError(
                f"environment {spec.id!r} takes no {name}: the Atari preprocessing settles it (preprocessing, "
                "sticky_actions, full_action_set, max_episode_steps)"
            )
    game = gym.make(
        spec,
        disable_env_checker=True,
        frameskip=1,
        obs_type="grayscale",
        repeat_action_probability=options.stickiness(_stickiness(spec)),
        full_action_space=options.full_action_set,
        max_num_frames_per_episode=None,  # AtariGame counts
        render_mode=render_mode,
        **env_kwargs,
    )
    return AtariGame(game, options, _most_frames(spec, max_episode_steps))


def make_games(
    spec: EnvSpec, options: AtariOptions, count: int, max_episode_steps: int | None = None
) -> VectorEnv[Any, Any, Any]:
    """`count` games in ALE's native vector environment, on one thread, in NEXT_STEP mode."""
    native: Any = _import_ale().AtariVectorEnv

    class Games(native):  # type: ignore[misc]
        """ALE's, with metadata of its own."""

        metadata: ClassVar[dict[str, Any]] = {}  # its constructor writes into its class's, which is every VectorEnv's

    games = Games(
        spec.kwargs["game"],
        count,
        num_threads=1,  # each worker has its own core
        max_num_frames_per_episode=_most_frames(spec, max_episode_steps),
        repeat_action_probability=options.stickiness(_stickiness(spec)),
        full_action_space=options.full_action_set,
        autoreset_mode=AutoresetMode.NEXT_STEP,
        img_height=_SIZE,
        img_width=_SIZE,
        stack_num=_STACK,
        frameskip=FRAMES_PER_STEP,
        noop_max=_NOOPS,
        reward_clipping=False,
        use_fire_reset=options.fire_at_reset,
    )
    lives = LostLives(games) if options.reports_lives else games
    return SmallSeeds(lives)


class SmallSeeds(VectorWrapper):  # without type parameters, which it takes from a later Gymnasium on only
    """A native vector environment whose seeds are 32 bits wide: environment i gets the i-th after the one given."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """The first observations; a seed is taken modulo what fits."""
        return self.env.reset(seed=None if seed is None else seed % (2**31 - self.num_envs), options=options)


class LostLives(VectorWrapper):
    """Reports lost lives in `info["life_lost"]`, [B] bool, from the counts in `info["lives"]`.

    ALE's own ways do not serve: `episodic_life` begins a new game at each lost life, and `life_loss_info` reports it as
    `terminated`, like the end of the game.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(env)
        self._lives: NDArray[Any] = np.zeros(env.num_envs, np.int64)
        self._over = np.zeros(env.num_envs, np.bool_)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """The first observations of new games, with all their lives."""
        observations, info = self.env.reset(seed=seed, options=options)
        self._lives, self._over = np.array(info["lives"]), np.zeros(self.num_envs, np.bool_)
        return observations, info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One step of each game; where a game is over or has just been reset, no life was lost."""
        observations, rewards, terminated, truncated, info = self.env.step(actions)
        lives = np.array(info["lives"])  # [B]
        info[LIFE_LOST] = (lives > 0) & (lives < self._lives) & ~self._over & ~terminated
        self._lives, self._over = lives, terminated | truncated
        return observations, rewards, terminated, truncated, info


class AtariGame(gym.Wrapper[Any, Any, Any, Any]):
    """One game, preprocessed like ALE's native vector environment does, frame by frame.

    Args:
        env: the game as Gymnasium makes it; its screen and its frames are used, not its steps.
        options: how it is played.
        most_frames: after how many frames an episode is truncated.
    """

    def __init__(self, env: gym.Env[Any, Any], options: AtariOptions, most_frames: int) -> None:
        super().__init__(env)
        self.ale = cast(Any, env.unwrapped).ale
        self.options, self.most_frames = options, most_frames
        self.choices = self.ale.getLegalActionSet() if options.full_action_set else self.ale.getMinimalActionSet()
        actions = _import_ale().Action
        self.noop, self.fire = actions.NOOP, actions.FIRE
        self.observation_space = spaces.Box(0, 255, (_STACK, _SIZE, _SIZE), np.uint8)
        height, width = self.ale.getScreenDims()
        self._screens = np.zeros((2, height, width), np.uint8)  # a step's last frame and the one before
        self._pictures = np.zeros((_STACK, _SIZE, _SIZE), np.uint8)
        self.frames = self.lives = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """A new game after its no-ops."""
        _, info = self.env.reset(seed=seed, options=options)
        noops = int(self.env.unwrapped.np_random.integers(max(_NOOPS, 1)))
        if self.options.fire_at_reset and self.fire in self.choices:
            self.ale.act(self.fire)
            noops -= 1
        for _ in range(noops):
            self.ale.act(self.noop)
            if self.ale.game_over():
                self.ale.reset_game()
        self._pictures[:] = 0
        self._screens[1] = 0
        self.ale.getScreenGrayscale(self._screens[0])
        self._take_picture()
        self.frames, self.lives = 0, self.ale.lives()
        return self._pictures.copy(), info | self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Four frames of one action, fewer if the game ends."""
        reward, terminated = 0.0, False
        for frame in range(FRAMES_PER_STEP):
            reward += self.ale.act(self.choices[int(action)])
            terminated = self.ale.game_over(with_truncation=False)
            self.frames += 1
            if terminated or self.frames >= self.most_frames:
                break
            if frame >= FRAMES_PER_STEP - 2:
                self.ale.getScreenGrayscale(self._screens[FRAMES_PER_STEP - 1 - frame])
        self._take_picture()
        info = self._info()
        if self.options.reports_lives:
            info[LIFE_LOST] = 0 < info["lives"] < self.lives and not terminated
        self.lives = info["lives"]
        return self._pictures.copy(), reward, terminated, self.frames >= self.most_frames and not terminated, info

    def _take_picture(self) -> None:
        np.maximum(self._screens[0], self._screens[1], out=self._screens[0])
        self._pictures[:-1] = self._pictures[1:]
        self._pictures[-1] = np.rint(shrink(shrink(self._screens[0], _SIZE).T, _SIZE).T)

    def _info(self) -> dict[str, Any]:
        return {"lives": self.ale.lives(), "episode_frame_number": self.ale.getEpisodeFrameNumber()}


def shrink(picture: NDArray[Any], size: int) -> NDArray[np.float64]:
    """A picture [H, W] shrunk to [size, W]: each new row is the mean of the old ones that it covers, in part or whole.

    Differences of running sums; a matrix product would be shared out among threads that the workers have no cores for.
    """
    edges = np.arange(size + 1) * (len(picture) / size)  # of the new rows, in old ones
    whole = edges.astype(np.int64)
    above = np.zeros((len(picture) + 1, picture.shape[1]))
    np.cumsum(picture, axis=0, out=above[1:])
    cut = np.append(picture, np.zeros_like(picture[:1]), axis=0)[whole]  # the rows that the edges run through
    sums = above[whole] + (edges - whole)[:, None] * cut  # of all that lies above an edge, [size + 1, W]
    rows: NDArray[np.float64] = np.diff(sums, axis=0) * (size / len(picture))
    return rows


def _most_frames(spec: EnvSpec, max_episode_steps: int | None) -> int:
    if max_episode_steps is not None:
        return max_episode_steps * FRAMES_PER_STEP
    return int(spec.kwargs.get("max_num_frames_per_episode") or _MOST_FRAMES)


def _stickiness(spec: EnvSpec) -> float:
    return float(spec.kwargs.get("repeat_action_probability", _STICKY))


def _import_ale() -> Any:
    try:
        ale_py: Any = importlib.import_module("ale_py")
    except ModuleNotFoundError:
        raise missing_extra("Atari", "atari") from None
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # no banner
    return ale_py
