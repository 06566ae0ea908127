"""Filming a policy at play.

Gymnasium's RenderCollection collects the frames. They are encoded as they come, by imageio-ffmpeg or Pillow, so a long
episode needs no more memory than a short one (a GIF: its palette pictures). Gymnasium's RecordVideo keeps them all,
writes no GIF, and hands them to MoviePy by the second, whose rounding may cost the last one.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import sys
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import RenderCollection
from numpy.typing import NDArray

from a3c.config import OwnCode
from a3c.core.seeding import evaluation_seeds
from a3c.envs.lookup import missing_extra
from a3c.envs.make import EnvFactory, EnvSource, making, missing_package
from a3c.errors import A3CError, UnsupportedEnvironment, UsageError
from a3c.experiment.environment import find_player
from a3c.experiment.evaluate import MOST_STEPS, check_at_least, check_finite, check_fit
from a3c.experiment.policy import Policy
from a3c.experiment.told import told
from a3c.own_code import reason
from a3c.runtimes.threads import one_thread
from a3c.types import Episode

ENDINGS = {".mp4": "imageio_ffmpeg", ".gif": "PIL"}
"""The formats that can be written, by a file's ending, and what writes them."""

Frame = NDArray[np.uint8]
"""[H, W, 3]"""

_MUJOCO = "MUJOCO_GL"  # the variable that says how it draws
_FPS = 30.0  # where the environment does not say
_LEAST_FPS = 0.01  # what a GIF can tell
_LEAST_HUNDREDTHS = 2  # of a second, of a picture in a GIF
_LEAST_SIDE = 160  # pixels; MinAtar's pictures are 10 x 10


@dataclass(frozen=True)
class Recording:
    """What was filmed: the file, its episodes (raw, undiscounted returns), and how many of these were cut."""

    path: Path
    episodes: tuple[Episode, ...]
    cut_episodes: int = 0

    def __str__(self) -> str:
        """One line: return, length, file."""
        returns = ", ".join(told(episode.episode_return) for episode in self.episodes)
        lengths = ", ".join(f"{episode.length:,}" for episode in self.episodes)
        return f"return {returns} in {lengths} steps{' (cut there)' if self.cut_episodes else ''}: {self.path}"


def record(
    policy: Policy | str | os.PathLike[str],
    out: str | os.PathLike[str],
    env: str | EnvFactory | None = None,
    *,
    episodes: int = 1,
    seed: int = 0,
    greedy: bool = True,
    fps: float | None = None,
    max_steps_per_episode: int = MOST_STEPS,
    env_kwargs: Mapping[str, Any] | None = None,
    model: OwnCode | None = None,
    checkpoint: str = "latest",
    trust_code: bool = False,
) -> Recording:
    """Play a policy and film it: a frame after each reset and each step.

    Args:
        policy: a policy, or the directory of a run or of a saved policy.
        out: the file, .mp4 or .gif; one that is there is replaced when the new one is whole. In a GIF a frame that
            equals the one before is shown longer instead, and from more than 50 frames a second some are left out.
        env: where to play; see `evaluate`.
        episodes: how many, one after another in the one file.
        seed: of the environment and of sampled actions; apart from any training seed.
        greedy: take the most probable action, else sample.
        fps: frames a second; by default the environment's own rate, else 30.
        max_steps_per_episode: an episode that has not ended by then is cut.
        env_kwargs: keyword arguments for making the environment, besides the run's own or in place of them; with `env`,
            all of them.
        model: for a policy with a network of a person's own: its factory, or `package.module:factory`.
        checkpoint: which of a run's: "latest", "best", "best-evaluation" or its name; see `a3c.load`.
        trust_code: use the code, modules and paths that the run's files name.

    Raises:
        UsageError: the file's ending, its directory, the environment or a missing package does not allow it, or the
            run names code and is not trusted.
        RunDirectoryError: the run is missing or damaged.
        NonFiniteError: an observation or a reward is NaN or infinite.
    """
    out = Path(out)
    ending = out.suffix.lower()
    if ending not in ENDINGS:
        raise UsageError(f"--out must end in {' or '.join(ENDINGS)}, which {str(out)!r} does not")
    check_at_least(1, episodes=episodes, max_steps_per_episode=max_steps_per_episode)
    check_at_least(0, seed=seed)
    if fps is not None and not _LEAST_FPS <= fps < float("inf"):
        raise UsageError(f"--fps must be more than 0, {_LEAST_FPS} at the least, not {fps}")
    if importlib.util.find_spec(ENDINGS[ending]) is None:
        raise missing_extra("recording", "video")
    policy, source = find_player(
        policy, env, env_kwargs=env_kwargs, model=model, checkpoint=checkpoint, trust_code=trust_code
    )
    with _without_a_screen(), contextlib.closing(_filmed(source)) as filmed:
        check_fit(policy, filmed.observation_space, filmed.action_space, source.name)
        *seeds, action_seed = evaluation_seeds(seed, episodes + 1)
        policy = Policy(policy.spec, policy.model, seed=action_seed)
        play = _Play(policy, filmed, source.name, greedy, max_steps_per_episode)
        with one_thread(), contextlib.closing(play.frames(seeds)) as frames:
            _write(frames, out, float(fps or filmed.metadata.get("render_fps") or _FPS), filmed, source.name)
    return Recording(out, tuple(play.episodes), play.cut_episodes)


def _filmed(source: EnvSource) -> gym.Env[Any, Any]:
    """The environment, whose `render` gives the frames since the last call."""
    with making(source):
        env = source.make(render_mode="rgb_array")
        env.metadata = env.metadata | {"render_modes": list(env.metadata.get("render_modes") or ())}  # it is added to
        return RenderCollection(env)


@contextlib.contextmanager
def _without_a_screen() -> Iterator[None]:
    """MuJoCo draws by EGL where there is no screen, unless the user has named another way; by itself it would fail."""
    if sys.platform != "linux" or {_MUJOCO, "DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ):
        yield
        return
    os.environ[_MUJOCO] = "egl"
    try:
        yield
    finally:
        del os.environ[_MUJOCO]


class _Play:
    """Plays episodes in one environment and shows each frame; knows what came of them."""

    def __init__(
        self, policy: Policy, env: gym.Env[Any, Any], name: str, greedy: bool, max_steps_per_episode: int
    ) -> None:
        self.policy = policy
        self.env = env
        self.name = name
        self.greedy = greedy
        self.max_steps_per_episode = max_steps_per_episode
        self.episodes: list[Episode] = []
        self.cut_episodes = 0

    def frames(self, seeds: Sequence[int]) -> Generator[Frame, None, None]:
        """The frames of one episode for each seed."""
        for seed in seeds:
            observation, _ = self.env.reset(seed=seed)
            check_finite(self.policy, observation)
            yield from self._frames()
            state, episode_start = None, np.ones(1, np.bool_)
            episode_return, length, done = 0.0, 0, False
            while not done and length < self.max_steps_per_episode:
                action, state = self.policy.predict(observation, state, episode_start, deterministic=self.greedy)
                observation, reward, terminated, truncated, _ = self.env.step(action)
                check_finite(self.policy, observation, reward)
                yield from self._frames()
                episode_start = np.zeros(1, np.bool_)
                episode_return, length, done = episode_return + float(reward), length + 1, terminated or truncated
            self.episodes.append(Episode(episode_return, length))
            self.cut_episodes += not done

    def _frames(self) -> Iterator[Frame]:
        """What was collected since the last call."""
        collected: Any = self.env.render()
        for frame in collected:
            if not (
                isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3
            ):
                kind = f"{frame.dtype} {list(frame.shape)}" if isinstance(frame, np.ndarray) else type(frame).__name__
                raise UnsupportedEnvironment(
                    f"environment {self.name!r} renders {kind} in the mode rgb_array: bytes [height, width, 3] are "
                    "wanted"
                )
            yield frame


def _write(frames: Iterator[Frame], out: Path, fps: float, env: gym.Env[Any, Any], name: str) -> None:
    """Encode the frames beside `out` and put the file in its place.

    Raises:
        UsageError: the file cannot be written, or rendering wants a package that is missing.
        UnsupportedEnvironment: the environment `name`, whose frames these are, raised.
    """
    frames = map(_enlarged, _played(frames, env, name))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".a3c-record-") as directory:
            aside = Path(directory) / f"film{out.suffix.lower()}"
            (_write_gif if aside.suffix == ".gif" else _write_mp4)(frames, aside, fps)
            os.replace(aside, out)
    except OSError as error:
        cause = error.strerror or next(iter(str(error).splitlines()), "")
        raise UsageError(f"--out {out} cannot be written ({cause}): name another file") from None


def _played(frames: Iterator[Frame], env: gym.Env[Any, Any], name: str) -> Iterator[Frame]:
    """The frames; what an environment raises, even an OSError, is no failure to write the file."""
    try:
        yield from frames
    except A3CError:
        raise
    except gym.error.DependencyNotInstalled as error:
        raise missing_package(name, error) from None
    except Exception as error:
        hint = f": without a screen MuJoCo draws by libEGL, or by another library that {_MUJOCO} names (osmesa)"
        raise UnsupportedEnvironment(
            f"environment {name!r} failed while it was filmed ({reason(error)})"
            + (hint if hasattr(env.unwrapped, "mujoco_renderer") else "")
        ) from error


def _write_mp4(frames: Iterator[Frame], path: Path, fps: float) -> None:
    import imageio_ffmpeg  # noqa: PLC0415  (an extra)

    first = next(frames)
    size = (first.shape[1], first.shape[0])
    encoder = imageio_ffmpeg.write_frames(str(path), size, fps=fps, macro_block_size=2, ffmpeg_log_level="error")
    written = 0
    with contextlib.closing(encoder):
        encoder.send(None)
        for frame in itertools.chain([first], frames):
            encoder.send(np.ascontiguousarray(frame))
            written += 1
    if not path.exists() or imageio_ffmpeg.count_frames_and_secs(str(path))[0] != written:
        raise OSError("the encoder lost frames: is the disk full?")


def _write_gif(frames: Iterator[Frame], path: Path, fps: float) -> None:
    from PIL import Image  # noqa: PLC0415  (only where used)

    def pictures() -> Iterator[Any]:
        for frame, hundredths in _timed(frames, fps):
            picture = Image.fromarray(frame)
            picture.info["duration"] = 10 * hundredths  # in ms; each picture's own, as there is no other
            yield picture

    film = pictures()
    next(film).save(path, save_all=True, append_images=film, loop=0)


def _timed(frames: Iterator[Frame], fps: float) -> Iterator[tuple[Frame, int]]:
    """The frames that a GIF shows, and for how many hundredths of a second each, so that the film runs at its rate.

    A GIF knows no shorter times, and viewers slow down what is shown for less than two: such frames are passed over.
    """
    shown, since = next(frames), 0
    number = 0
    for number, frame in enumerate(frames, 1):
        due = round(100 * number / fps)
        if due >= since + _LEAST_HUNDREDTHS:
            yield shown, due - since
            shown, since = frame, due
    yield shown, max(_LEAST_HUNDREDTHS, round(100 * (number + 1) / fps) - since)


def _enlarged(frame: Frame) -> Frame:
    """The frame with each pixel as many as it takes to be seen, and with even sides, which H.264 needs."""
    times = -(-_LEAST_SIDE // min(frame.shape[:2]))
    frame = frame.repeat(times, 0).repeat(times, 1) if times > 1 else frame
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
