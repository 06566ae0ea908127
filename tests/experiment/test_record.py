"""Films: that they can be read, show every step, replace a file only when they are whole, and what is refused."""

import importlib.util
import os
import re
import subprocess
import sys
from ctypes.util import find_library

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from PIL import Image

import a3c
import tiny_envs
from a3c.envs.make import EnvSource
from a3c.envs.teaching import MaskedRecall
from a3c.errors import NonFiniteError, UnsupportedEnvironment, UsageError
from a3c.experiment.policy_spec import PolicySpec
from a3c.experiment.record import Recording, _timed, record
from a3c.models.actor_critic import Network
from a3c.types import Episode
from leftovers import nothing_left

pytestmark = pytest.mark.timeout(120)

SMALL = Network(hidden_sizes=(8,))


class Filmed(tiny_envs.Corridor):
    """A picture whose brightness is the step; 9 x 7 pixels, 20 a second."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012

    def __init__(self, render_mode=None, fail_at=None):
        self.render_mode = render_mode
        self.fail_at = fail_at

    def step(self, action):
        if self.steps + 1 == self.fail_at:
            raise ZeroDivisionError
        return super().step(action)

    def render(self):
        return np.full((9, 7, 3), 20 * self.steps, np.uint8)


class Masked(MaskedRecall):
    """Filmed while it is played with memory and a mask: a forbidden action would cost 5."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, render_mode=None):
        super().__init__()
        self.render_mode = render_mode

    def render(self):
        return np.random.default_rng(self.steps).integers(0, 255, (160, 160, 3), np.uint8)


class MaskInInfo(Filmed):
    """Going right is never allowed, as its info says."""

    def reset(self, *, seed=None, options=None):
        observation, _ = super().reset(seed=seed)
        return observation, {"action_mask": np.array([1, 0], np.int8)}

    def step(self, action):
        assert action == 0
        *result, _ = super().step(action)
        return *result, {"action_mask": np.array([1, 0], np.int8)}


def policy_for(env, **settings):
    settings = {"network": SMALL} | settings
    spec = PolicySpec(env.observation_space, env.action_space, **settings)
    return a3c.Policy(spec, spec.build())


@pytest.fixture(scope="module")
def cartpole():
    return policy_for(gym.make("CartPole-v1"))


@pytest.fixture
def corridor():
    return policy_for(tiny_envs.Corridor())


def frames_of(path):
    """All frames, [N, H, W, 3], and frames a second, read by the format's own reader.

    A GIF shows a frame longer that is followed by others like it; here it is repeated as often.
    """
    if path.suffix == ".gif":
        with Image.open(path) as image:
            frames, durations = [], []
            for i in range(image.n_frames):
                image.seek(i)
                frames.append(np.asarray(image.convert("RGB")))
                durations.append(image.info["duration"])
            times = np.array(durations) // min(durations)
            assert times.sum() * min(durations) == sum(durations)
            return np.repeat(np.stack(frames), times, axis=0), 1000 / min(durations)
    import imageio_ffmpeg

    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    about = subprocess.run([ffmpeg, "-i", str(path)], capture_output=True, text=True).stderr
    width, height = map(int, re.search(r"Video: h264.* yuv420p.*, (\d+)x(\d+)", about).groups())
    raw = [ffmpeg, "-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    pixels = subprocess.run(raw, stdout=subprocess.PIPE, check=True).stdout
    return np.frombuffer(pixels, np.uint8).reshape(-1, height, width, 3), float(re.search(r"([\d.]+) fps", about)[1])


@pytest.mark.parametrize("ending", [".gif", ".mp4"])
def test_every_step_is_a_frame(tmp_path, cartpole, ending):
    with nothing_left():
        recording = record(cartpole, tmp_path / f"film{ending}", "CartPole-v1", seed=3)
    frames, fps = frames_of(recording.path)
    (episode,) = recording.episodes
    assert episode.episode_return == episode.length > 5
    assert len(frames) == episode.length + 1
    assert frames.shape[1:] == (400, 600, 3)
    assert fps == 50  # CartPole's own
    assert (frames[0] != frames[-1]).any()
    assert str(recording) == f"return {episode.length:.1f} in {episode.length} steps: {recording.path}"
    assert [path.name for path in tmp_path.iterdir()] == [f"film{ending}"]


@pytest.mark.parametrize("ending", [".gif", ".mp4"])
def test_the_frames_are_the_environments_own_in_order(tmp_path, corridor, ending):
    recording = record(corridor, tmp_path / f"film{ending}", Filmed, episodes=2, fps=10)
    frames, fps = frames_of(recording.path)
    assert recording.episodes[0].length == recording.episodes[1].length == 8
    assert fps == 10
    assert frames.shape == (18, 208, 162, 3)  # 9 x 7 pixels, 23 times as large, with even sides
    brightness = frames.mean((1, 2, 3))
    np.testing.assert_allclose(brightness, [20 * step for step in range(9)] * 2, atol=3)


def test_the_same_seed_is_the_same_episode_and_another_is_not(tmp_path, cartpole):
    films = [
        record(cartpole, tmp_path / f"{i}.gif", "CartPole-v1", seed=seed, greedy=False)
        for i, seed in enumerate((0, 0, 1))
    ]
    first, second, third = (path.path.read_bytes() for path in films)
    assert first == second != third


def test_memory_masks_and_nested_observations(tmp_path):
    policy = policy_for(Masked(), network=Network(hidden_sizes=(8,), memory="lstm"))
    recording = record(policy, tmp_path / "film.gif", Masked, episodes=3, greedy=False)
    assert all(episode.episode_return in (1.0, -1.0) for episode in recording.episodes)


def test_a_mask_in_the_info(tmp_path):
    mask = spaces.Box(0, 1, (2,), np.int8)
    observation_space = spaces.Dict({"observation": Filmed.observation_space, "action_mask": mask})
    spec = PolicySpec(observation_space, Filmed.action_space, network=SMALL)
    recording = record(a3c.Policy(spec, spec.build()), tmp_path / "film.gif", MaskInInfo, greedy=False)
    assert recording.episodes[0].episode_return == -8.0


def test_an_atari_game_is_seen_as_in_training(tmp_path):
    pytest.importorskip("ale_py")
    games = EnvSource("ALE/Pong-v5").make_vector(1)
    spec = PolicySpec(games.single_observation_space, games.single_action_space, network=SMALL)
    games.close()
    policy = a3c.Policy(spec, spec.build())
    recording = record(policy, tmp_path / "film.mp4", "ALE/Pong-v5", max_steps_per_episode=40)
    frames, _ = frames_of(recording.path)
    assert frames.shape == (41, 210, 160, 3)  # the game's own picture, not the agent's
    assert recording.cut_episodes == 1
    assert "(cut there)" in str(recording)


def test_an_episode_without_end_is_cut(tmp_path, corridor):
    recording = record(corridor, tmp_path / "film.gif", Filmed, max_steps_per_episode=5)
    assert [episode.length for episode in recording.episodes] == [5]
    assert recording.cut_episodes == 1
    assert len(frames_of(recording.path)[0]) == 6


@pytest.mark.parametrize("ending", [".gif", ".mp4"])
def test_what_is_there_stays_until_the_new_film_is_whole(tmp_path, corridor, ending):
    out = tmp_path / f"film{ending}"
    out.write_text("what was there")
    with nothing_left(), pytest.raises(UnsupportedEnvironment, match="ZeroDivisionError"):
        record(corridor, out, lambda render_mode=None: Filmed(render_mode, fail_at=5))
    assert out.read_text() == "what was there"
    assert list(tmp_path.iterdir()) == [out]
    record(corridor, out, Filmed)
    assert len(frames_of(out)[0]) == 9


def test_a_directory_is_made(tmp_path, corridor):
    assert record(corridor, tmp_path / "a" / "b" / "FILM.GIF", Filmed).path.exists()


@pytest.mark.parametrize("out", ["film", "film.avi", "film.mp4.txt", ".gif"])
def test_other_endings_are_refused_before_anything_is_done(tmp_path, out):
    with pytest.raises(UsageError, match=r"--out must end in \.mp4 or \.gif"):
        record(tmp_path / "no-run", tmp_path / out)


@pytest.mark.parametrize(("ending", "package"), [(".mp4", "imageio_ffmpeg"), (".gif", "PIL")])
def test_a_missing_package_is_named(tmp_path, monkeypatch, corridor, ending, package):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find_spec(name))
    with pytest.raises(UsageError, match=r'pip install "a3c\[video\]"'):
        record(corridor, tmp_path / f"film{ending}", Filmed)


def test_a_missing_package_of_the_environment_is_named(tmp_path, monkeypatch, cartpole):
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(UsageError, match=r"'CartPole-v1' wants a package that is missing: .*pygame"):
        record(cartpole, tmp_path / "film.gif", "CartPole-v1")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("env", [tiny_envs.Corridor, "tiny_envs:Corridor"])
def test_an_environment_that_renders_nothing_is_named(tmp_path, corridor, env):
    with pytest.raises(UsageError, match="Corridor' cannot be rendered"):
        record(corridor, tmp_path / "film.gif", env)


@pytest.fixture
def no_screen(monkeypatch):
    for variable in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.usefixtures("no_screen")
@pytest.mark.skipif(not find_library("EGL"), reason="libEGL is not there")
def test_mujoco_is_filmed_without_a_screen_and_a_gif_runs_at_its_rate(tmp_path):
    policy = policy_for(gym.make("Hopper-v5"))
    recording = record(policy, tmp_path / "film.gif", "Hopper-v5", max_steps_per_episode=9, seed=1)
    with Image.open(recording.path) as image:
        durations = []
        for number in range(image.n_frames):
            image.seek(number)
            durations.append(image.info["duration"])
    assert recording.episodes[0].length == 9
    assert durations == [20, 20, 20, 20]  # 10 frames, 125 a second
    assert "MUJOCO_GL" not in os.environ


@pytest.mark.usefixtures("no_screen")
@pytest.mark.filterwarnings("ignore:Exception ignored in.*OffScreenViewer")  # which was made in part only
def test_how_mujoco_draws_is_named_where_it_does_not(tmp_path, monkeypatch):
    policy = policy_for(gym.make("Hopper-v5"))
    monkeypatch.setenv("MUJOCO_GL", "crayons")
    with pytest.raises(UnsupportedEnvironment, match=r"Hopper-v5.*libEGL, or by another library that MUJOCO_GL names"):
        record(policy, tmp_path / "film.gif", "Hopper-v5", max_steps_per_episode=2)


@pytest.mark.parametrize(("fps", "shown"), [(100 / 3, 31), (30, 31), (50, 31), (60, 21), (125, 13), (1000, 2)])
def test_a_gif_runs_at_its_rate(fps, shown):
    frames = [np.full((1, 1, 3), number, np.uint8) for number in range(31)]
    timed = list(_timed(iter(frames), fps))
    hundredths = np.array([hundredths for _, hundredths in timed])
    assert len(timed) == shown
    assert hundredths.min() >= 2
    starts = np.concatenate([[0], hundredths.cumsum()[:-1]])
    numbers = np.array([int(frame.flat[0]) for frame, _ in timed])
    assert abs(starts - 100 * numbers / fps).max() <= 0.5
    assert abs(hundredths.sum() - 100 * 31 / fps) <= 2


@pytest.mark.parametrize("modes", [{}, {"render_modes": None}, {"render_modes": ("rgb_array",)}], ids=str)
def test_an_environment_may_list_its_render_modes_as_it_likes(tmp_path, corridor, modes):
    class Unlisted(Filmed):
        metadata = modes | {"render_fps": 20}

    frames, fps = frames_of(record(corridor, tmp_path / "film.gif", Unlisted).path)
    assert (len(frames), fps) == (9, 20)


def test_a_number_that_is_none_ends_it(tmp_path, corridor):
    class Unsound(Filmed):
        def step(self, action):
            return np.full(2, np.nan, np.float32), *super().step(action)[1:]

    with pytest.raises(NonFiniteError, match="a NaN or an infinity as its observation"):
        record(corridor, tmp_path / "film.gif", Unsound)


@pytest.mark.parametrize("picture", [None, np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.int64)])
def test_what_is_no_picture_is_refused(tmp_path, monkeypatch, corridor, picture):
    monkeypatch.setattr(Filmed, "render", lambda self: picture)
    with pytest.raises(UnsupportedEnvironment, match=r"'Filmed' renders .* in the mode rgb_array"):
        record(corridor, tmp_path / "film.gif", Filmed)
    assert not list(tmp_path.iterdir())


def test_another_environment_is_refused(tmp_path, cartpole):
    with pytest.raises(UsageError, match="'Filmed' gives Box"):
        record(cartpole, tmp_path / "film.gif", Filmed)


def test_a_place_that_cannot_be_written(corridor):
    with pytest.raises(UsageError, match=r"--out /proc/nowhere/film\.gif cannot be written"):
        record(corridor, "/proc/nowhere/film.gif", Filmed)


@pytest.mark.parametrize("kind", [ConnectionResetError, ZeroDivisionError])
def test_an_environments_own_trouble_is_not_the_films(tmp_path, corridor, kind):
    class Disconnected(Filmed):
        def step(self, action):
            raise kind("the simulator is gone")

    with pytest.raises(UnsupportedEnvironment, match="'Disconnected' failed while it was filmed .*simulator is gone"):
        record(corridor, tmp_path / "film.gif", Disconnected)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"episodes": 0}, "--episodes must be at least 1"),
        ({"seed": -1}, "--seed must be 0 or more"),
        ({"fps": 0}, "--fps must be more than 0"),
        ({"fps": 0.001}, "0.01 at the least"),
        ({"fps": float("nan")}, "--fps must be more than 0"),
        ({"max_steps_per_episode": 0}, "--max-steps-per-episode must be at least 1"),
    ],
    ids=str,
)
def test_numbers_out_of_range(tmp_path, corridor, settings, words):
    with pytest.raises(UsageError, match=words):
        record(corridor, tmp_path / "film.gif", Filmed, **settings)


def test_several_episodes_are_told_in_one_line(tmp_path):
    recording = Recording(tmp_path / "x.gif", (Episode(1.25, 3), Episode(-2.0, 1200)))
    assert str(recording) == f"return 1.25, -2.00 in 3, 1,200 steps: {tmp_path / 'x.gif'}"
