"""The settings of a training run: the command line, the saved JSON and the Python API are drawn from here."""

from __future__ import annotations

import difflib
import json
import math
import numbers
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro

from a3c.errors import IllegalCombination, UsageError

Algorithm = Literal["a3c", "a2c"]
RuntimeName = Literal["processes", "serial", "ray"]
StoreName = Literal["auto", "local", "hogwild", "locked", "synchronous", "delayed", "ray", "ray-synchronous"]

LEGAL_STORES: dict[tuple[Algorithm, RuntimeName], tuple[str, ...]] = {
    ("a3c", "processes"): ("hogwild", "locked"),
    ("a3c", "serial"): ("local", "hogwild", "locked", "delayed"),
    ("a3c", "ray"): ("ray",),
    ("a2c", "processes"): ("synchronous",),
    ("a2c", "ray"): ("ray-synchronous",),
    ("a2c", "serial"): ("synchronous", "local"),  # local with one worker
}
"""Which stores go with which algorithm and runtime; the first is what `auto` takes."""


OwnCode = Annotated[
    str | Callable[..., Any],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="MODULE:NAME",
        instance_from_str=lambda words: words[0],
        is_instance=lambda value: isinstance(value, str) or callable(value),
        str_from_instance=lambda value: [own_code_name(value)],
    ),
]
"""A person's own code: `package.module:name` on the command line, in Python that or a callable."""

JSON_OBJECT = tyro.constructors.PrimitiveConstructorSpec(
    nargs=1,
    metavar="JSON",
    instance_from_str=lambda words: _json_object(words[0]),
    is_instance=lambda value: isinstance(value, dict),
    str_from_instance=lambda value: [json.dumps(value)],
)


def _json_object(text: str) -> dict[str, Any]:
    wanted = 'a JSON object is wanted, like {"gravity": -5.0}'
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{wanted} ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(wanted)
    return value


@dataclass(frozen=True)
class TrainConfig:
    """Everything that a run's outcome depends on, and where it goes.

    Defaults are the general ones; an environment's preset (`a3c.experiment.presets`) replaces some of them,
    and what a user names replaces both.
    """

    algorithm: Algorithm = "a3c"
    """a3c applies every worker's gradient as it comes; a2c waits for all workers and applies their mean."""
    workers: int = 2
    """Actor-learners (W), in processes (but for the serial runtime); without a preset, by a step's measured time."""
    envs_per_worker: int = 8
    """Environments (B) that each worker steps at once; without a preset, by a step's measured time."""
    seed: int = 0
    """Seed of every random stream of the run."""

    total_env_steps: int | None = 1_000_000
    """Budget (T_max) in environment steps of all workers together; the learning rate anneals over it."""
    total_episodes: int | None = None
    """Budget in finished episodes of all workers together."""
    max_seconds: float | None = None
    """Budget in seconds, from the start of the command or the call on: what comes before the first step counts."""
    stop_at_return: float | None = None
    """Stop once the mean return of the last 100 episodes reaches this."""

    evaluate_every: int | None = None
    """Evaluate the policy greedily every so many environment steps, or when there is time, beside the training."""
    evaluate_episodes: int = 20
    """Episodes of each such evaluation."""

    preset: Literal["auto", "none", "paper", "atari"] = "auto"
    """Where settings that you do not name come from: the environment's own preset, none, or a named one."""

    env_kwargs: Annotated[dict[str, Any], JSON_OBJECT] = field(default_factory=dict)
    """Keyword arguments for making the environment, as JSON: '{"gravity": -5.0}'."""
    wrappers: tuple[OwnCode, ...] = ()
    """Wrappers around each environment, innermost first: package.module:Wrapper or a name in gymnasium.wrappers, with
    keyword arguments as NAME:JSON."""
    import_: Annotated[tuple[str, ...], tyro.conf.arg(name="import")] = ()
    """Modules to import first, because they register environments."""
    max_episode_steps: int | None = None
    """Time limit of an episode: in place of a registered environment's own, on top of any other's."""
    atari_preprocessing: Literal["standard", "paper"] = "standard"
    """Atari: today's customary preprocessing, or that of the A3C paper."""
    sticky_actions: float | None = None
    """Atari: probability that the action before is repeated; by default the id's, in the paper's preprocessing 0."""
    full_action_set: bool = False
    """Atari: all 18 actions instead of those that the game uses."""
    life_loss_ends: bool = False
    """Atari: learn as if the game ended with each life; it goes on, and logged returns are whole games'."""

    init_from: str | None = None
    """Directory of a run, or of a saved policy, whose weights and normalisation to begin with, and nothing else."""
    checkpoint_every_s: float | None = 60.0
    """Seconds from one checkpoint to the next; with none there is one at the start and one at the end."""
    keep: int = 3
    """How many of the newest checkpoints to keep; the one with the best mean return stays besides."""

    run_dir: str | None = None
    """Where the run's files go; by default runs/ENV-ALGORITHM-SEED-TIME."""
    label: str | None = None
    """Name of the group that `a3c compare` puts this run into; by default its environment and algorithm."""
    overwrite: bool = False
    """Replace a run that is already in the run directory."""
    quiet: bool = False
    """Show nothing while it runs."""
    tensorboard: bool = True
    """Write TensorBoard files to RUN_DIR/tensorboard."""
    wandb: bool = False
    """Log to Weights & Biases, one run for all workers (pip install a3c[wandb])."""
    wandb_project: str = "a3c"
    """Weights & Biases project."""
    wandb_mode: Literal["online", "offline", "disabled"] | None = None
    """Weights & Biases mode; by default its own (WANDB_MODE, else online)."""

    rollout_length: int = 16
    """Steps (t_max) of each environment between two updates."""
    end_rollout_at_episode_end: bool = False
    """End a rollout where its episode ends, as in the paper; needs --envs-per-worker 1."""
    discount: float = 0.99
    """Discount factor (γ)."""
    lambda_: Annotated[float, tyro.conf.arg(name="lambda")] = 0.95
    """λ of the returns: 1 is A3C's n-step return, less is generalised advantage estimation."""
    entropy_coef: float = 0.003
    """Weight of the entropy bonus (β)."""
    value_coef: float = 0.5
    """Weight of the value loss."""
    loss_reduction: Literal["mean", "sum"] = "mean"
    """Reduce the loss over a rollout's transitions by their mean or, as the paper does, their sum."""
    max_gradient_norm: float | None = 0.5
    """Shorten gradients of a greater Euclidean norm to this."""

    optimizer: Literal["rmsprop", "adam"] = "rmsprop"
    """Update rule; its statistics are shared by all workers."""
    learning_rate: float = 2e-3
    """Learning rate (η) at the start."""
    learning_rate_schedule: Literal["linear", "constant"] = "linear"
    """linear anneals to 0 over the budget, by the steps of all workers together."""
    optimizer_decay: float = 0.99
    """Decay of the squared gradients' running mean: RMSProp's α, Adam's β2."""
    optimizer_epsilon: float = 1e-5
    """ε of RMSProp or Adam."""
    epsilon_inside_root: bool = False
    """RMSProp: divide by sqrt(g + ε), as in the paper, instead of sqrt(g) + ε."""
    bias_correction: bool = False
    """RMSProp: divide by g / (1 - α^t), so that the first steps are not 1 / sqrt(1 - α) times as long."""
    adam_beta1: float = 0.9
    """Adam: decay of the gradients' running mean."""

    normalise_observations: bool = True
    """Centre and scale observations by the mean and variance that all workers have seen; an image has one of each."""
    scale_rewards: bool = True
    """Divide rewards by the standard deviation of discounted returns; logged returns are the raw ones."""
    clip_rewards: float | None = None
    """Clip the rewards that are learned from to plus or minus this; logged returns are the raw ones."""

    model: OwnCode | None = None
    """A network of your own: package.module:factory (docs/change-x.md says what it must be)."""
    torso: Literal["auto", "a3c", "nature", "impala", "minatar"] = "auto"
    """Network for images: the A3C paper's, Mnih et al. 2015's, IMPALA's ResNet or MinAtar's; auto goes by size."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers for observations that are numbers."""
    activation: Literal["tanh", "relu", "elu", "silu", "gelu"] = "tanh"
    """Activation after each of them."""
    separate_torsos: bool = True
    """Give policy and value hidden layers of their own instead of shared ones."""
    memory: Literal["lstm", "gru"] | None = None
    """A recurrent core behind the hidden layers."""
    memory_size: int = 128
    """Width of the recurrent core."""
    action_bounding: Literal["clip", "tanh"] = "clip"
    """How a Gaussian's actions come within their bounds: clipped, or squashed by tanh."""
    log_std: Literal["parameter", "network", "gsde"] = "parameter"
    """A Gaussian's standard deviation: one parameter for all states, put out by the network, or smooth exploration."""
    noise_steps: int = 16
    """Smooth exploration (gsde): for how many steps its noise is kept."""
    initial_log_std: float = 0.0
    """Logarithm of a Gaussian's standard deviation at the start, -10 to 2; half an action's range has length 1.
    gsde: for features of mean square 1, up to 5; that is Stable-Baselines3's log_std_init + ln(F)/2 for F features."""

    runtime: RuntimeName = "processes"
    """processes runs each worker in one of its own, serial all in this one, in turn, ray all over a Ray cluster."""
    store: StoreName = "auto"
    """Where the shared parameters live: hogwild (no lock), locked, local, delayed or synchronous (a2c); ray's own."""
    delay: int = 1
    """Delayed store: how many pushes late each one is applied."""
    on_worker_failure: Literal["stop", "restart"] = "stop"
    """What becomes of a run where a worker raises, is killed or hangs: it ends, or that worker is started anew."""
    max_restarts_per_hour: int = 20
    """Restarts of all workers together; one more failure within an hour ends the run."""
    worker_timeout_s: float = 600.0
    """A worker whose single step, reset or update takes longer counts as hanging, and is killed."""
    start_method: Literal["forkserver", "spawn"] | None = None
    """How worker processes start; by default forkserver where the platform has it."""
    ray_address: str | None = None
    """Ray: HOST:PORT of the cluster; by default RAY_ADDRESS, else the one begun here, else a new one."""
    worker_cpus: float = 1.0
    """Ray: processors that each worker takes."""
    worker_gpus: float = 0.0
    """Ray: GPUs that each worker takes, also a part of one."""
    updates_in_flight: Literal[0, 1] = 1
    """Ray, a3c: updates that a worker does not wait for; each of its gradients is then as many updates late."""
    ray_runtime_env: Annotated[dict[str, Any], JSON_OBJECT] = field(default_factory=dict)
    """Ray: runtime environment of the workers, as JSON: '{"working_dir": ".", "pip": ["minatar"]}'."""
    ray_wait_s: float = 0.0
    """Ray: seconds to wait for nodes that are still to come, where the cluster has no room for the workers."""
    device: str = "cpu"
    """Device of the workers' local networks: cpu, cuda, cuda:1 or auto. The shared parameters stay on the CPU."""

    @property
    def resolved_store(self) -> str:
        """The store that `auto` stands for, or the one named."""
        return LEGAL_STORES[self.algorithm, self.runtime][0] if self.store == "auto" else self.store

    def validate(self) -> None:
        """Raise UsageError at the first setting that makes no sense; the message names it and a fix."""
        self._check_types()
        for each in fields(self):
            value = getattr(self, each.name)
            self._require(each.name, not isinstance(value, int) or abs(value) < 2**63, "less than 2 to the 63rd")
        for words, holds, names in _RANGES:
            for name in names:
                value = getattr(self, name)
                self._require(name, value is None or holds(value), words)
        for name, most in _MOST.items():
            self._require(name, getattr(self, name) <= most, f"at most {most:,}")
        # That of gsde is one of features of mean square 1: theirs is less, and beyond 2 only what comes out is clipped.
        most, why = (5, "") if self.log_std == "gsde" else (2, ", beyond which it is clipped")
        self._require("initial_log_std", -10 <= self.initial_log_std <= most, f"between -10 and {most}{why}")
        self._check_sizes()
        self._check_ending()
        self._check_combination()

    def _check_sizes(self) -> None:
        transitions = self.workers * self.envs_per_worker * self.rollout_length
        if transitions > _MOST_TRANSITIONS:
            raise UsageError(
                f"--workers {self.workers} with --envs-per-worker {self.envs_per_worker} and --rollout-length "
                f"{self.rollout_length} keep {transitions:,} transitions at a time, of at most {_MOST_TRANSITIONS:,}: "
                "name smaller ones"
            )
        self._require("hidden_sizes", all(size >= 1 for size in self.hidden_sizes), "at least 1 each")
        self._require("hidden_sizes", all(size <= _WIDEST for size in self.hidden_sizes), f"at most {_WIDEST:,} each")
        if len(self.hidden_sizes) > _MOST_LAYERS:
            raise UsageError(f"--hidden-sizes must be at most {_MOST_LAYERS}, not {len(self.hidden_sizes)}")

    def _check_ending(self) -> None:
        if self.total_env_steps is None and self.total_episodes is None and self.max_seconds is None:
            raise UsageError(
                "nothing would ever end this run: name --total-env-steps, --total-episodes or --max-seconds"
            )
        if self.total_env_steps is None and self.total_episodes is None and self.learning_rate_schedule == "linear":
            raise UsageError(
                "a linear learning rate anneals over a budget in steps or episodes: name --total-env-steps or "
                "--total-episodes, or take --learning-rate-schedule constant"
            )
        if (self.evaluate_every or 0) > (self.total_env_steps or math.inf):
            raise UsageError(
                f"--evaluate-every {self.evaluate_every} is never reached in {self.total_env_steps} steps: name fewer"
            )

    def _check_combination(self) -> None:
        if self.end_rollout_at_episode_end and self.envs_per_worker != 1:
            raise UsageError(
                f"--end-rollout-at-episode-end needs one environment a worker, not {self.envs_per_worker}: "
                "take --envs-per-worker 1 or --no-end-rollout-at-episode-end"
            )
        legal = LEGAL_STORES[self.algorithm, self.runtime]
        if self.resolved_store not in legal:
            raise IllegalCombination(
                f"--store {self.store} does not go with --algorithm {self.algorithm} --runtime {self.runtime}: "
                f"take --store {' or '.join(legal)}"
            )
        if self.algorithm == "a2c" and self.resolved_store == "local" and self.workers > 1:
            raise IllegalCombination(
                f"a2c with {self.workers} workers needs a store that waits for them all: take --store synchronous"
            )

    def refuse_idle(self, named: Collection[str]) -> None:
        """Raise UsageError where one of the `named` settings changes nothing, because another one is not as it must be.

        Whoever turned that other one off knows what they do: `wandb=False, wandb_project="x"` is fine.
        """
        for name in sorted(set(named) & set(_GOES_WITH)):
            if getattr(self, name) is None:
                continue
            switch, values = _GOES_WITH[name]
            value = self.resolved_store if switch == "store" else getattr(self, switch)
            idle = value not in values if values else not value
            turned_off = switch in named and not getattr(self, switch)
            if idle and not turned_off:
                on = " ".join([flag(switch), " or ".join(values)]).strip()
                raise UsageError(f"{flag(name)} changes nothing without {on}: add that, or leave {flag(name)} out")

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON can hold them."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("env_kwargs", "ray_runtime_env"):
            values[name] = {key: value if is_json(value) else repr(value) for key, value in values[name].items()}
        values["model"] = None if self.model is None else own_code_name(self.model)
        values["wrappers"] = [own_code_name(wrapper) for wrapper in self.wrappers]
        return values | {name: list(values[name]) for name in ("hidden_sizes", "import_")}

    def _check_types(self) -> None:
        # The command line has done this already; keyword arguments have not been looked at yet.
        for name, hint in get_type_hints(TrainConfig).items():
            value = getattr(self, name)
            if not _is_a(value, hint):
                one = get_origin(hint) is tuple and _is_a(value, get_args(hint)[0])
                fix = f"; in Python write {name}=({value!r},)" if one else ""
                raise UsageError(f"{flag(name)} must be {_described(hint)}, not {value!r}{fix}")

    def _require(self, name: str, holds: bool, what: str) -> None:
        if not holds:
            raise UsageError(f"{flag(name)} must be {what}, not {getattr(self, name)}")


# What a setting must be, unless it is None, in words and to check, and which settings.
_RANGES: tuple[tuple[str, Callable[[float], bool], tuple[str, ...]], ...] = (
    (
        "at least 1",
        lambda value: value >= 1,
        ("workers", "envs_per_worker", "rollout_length", "memory_size", "noise_steps", "evaluate_episodes", "keep"),
    ),
    (
        "more than 0",
        lambda value: 0 < value < math.inf,
        (
            "total_env_steps",
            "total_episodes",
            "max_seconds",
            "checkpoint_every_s",
            "max_episode_steps",
            "evaluate_every",
            "max_gradient_norm",
            "clip_rewards",
            "learning_rate",
            "optimizer_epsilon",
            "worker_timeout_s",
        ),
    ),
    (
        "0 or more",
        lambda value: 0 <= value < math.inf,
        ("seed", "delay", "entropy_coef", "value_coef", "worker_cpus", "worker_gpus", "ray_wait_s"),
    ),
    ("between 0 and 1", lambda value: 0 <= value <= 1, ("discount", "lambda_", "sticky_actions")),
    ("at least 0 and below 1", lambda value: 0 <= value < 1, ("optimizer_decay", "adam_beta1")),
    ("a number", lambda value: not math.isnan(value), ("stop_at_return",)),
)

_WIDEST, _MOST_LAYERS, _MOST_TRANSITIONS = 2**16, 100, 2**26
_MOST = {
    "workers": 4096,
    "envs_per_worker": 2**16,
    "rollout_length": 2**20,
    "memory_size": _WIDEST,
    "delay": 10_000,
    "evaluate_episodes": 10**6,
}
"""More of it is a slip, or a stranger's file that would take all memory."""

# What a setting is of no use without: another setting, and which values of it; none means that it is on at all.
_GOES_WITH: dict[str, tuple[str, tuple[str, ...]]] = {
    "evaluate_episodes": ("evaluate_every", ()),
    "delay": ("store", ("delayed",)),
    "adam_beta1": ("optimizer", ("adam",)),
    "epsilon_inside_root": ("optimizer", ("rmsprop",)),
    "bias_correction": ("optimizer", ("rmsprop",)),
    "memory_size": ("memory", ("lstm", "gru")),
    "noise_steps": ("log_std", ("gsde",)),
    "start_method": ("runtime", ("processes",)),
    "on_worker_failure": ("runtime", ("processes", "ray")),
    "worker_timeout_s": ("runtime", ("processes", "ray")),
    "ray_address": ("runtime", ("ray",)),
    "worker_cpus": ("runtime", ("ray",)),
    "worker_gpus": ("runtime", ("ray",)),
    "updates_in_flight": ("store", ("ray",)),
    "ray_runtime_env": ("runtime", ("ray",)),
    "ray_wait_s": ("runtime", ("ray",)),
    "max_restarts_per_hour": ("on_worker_failure", ("restart",)),
    "wandb_project": ("wandb", ()),
    "wandb_mode": ("wandb", ()),
}


COUNTS = frozenset(
    name
    for name, hint in get_type_hints(TrainConfig).items()
    if int in (hint, *get_args(hint)) and float not in (hint, *get_args(hint))
)
"""The settings that are whole numbers."""


def is_json(value: object) -> bool:
    """Whether JSON gives `value` back, a tuple as a list."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and is_json(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(is_json, value))
    return value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value))


def _is_a(value: object, hint: Any) -> bool:
    arguments = get_args(hint)
    if get_origin(hint) is dict:
        return isinstance(value, dict) and all(isinstance(key, str) for key in value)
    if get_origin(hint) is Literal:
        return value in arguments
    if get_origin(hint) is Callable:
        return callable(value)
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_is_a(item, arguments[0]) for item in value)
    if arguments:  # a union
        return any(_is_a(value, argument) for argument in arguments)
    if hint in (int, float):
        return isinstance(value, numbers.Integral if hint is int else numbers.Real) and not isinstance(value, bool)
    return isinstance(value, hint)


def _described(hint: Any) -> str:
    arguments = get_args(hint)
    if get_origin(hint) is Literal:
        return " or ".join(map(str, arguments))
    if get_origin(hint) is tuple:
        return f"a tuple, of {_described(arguments[0])} each"
    if get_origin(hint) is dict:
        return "a dict with names as keys"
    if get_origin(hint) is Callable:
        return "a callable"
    if arguments:
        return " or ".join(_described(argument) for argument in arguments)
    names = {int: "a whole number", float: "a number", str: "a string", bool: "true or false", type(None): "None"}
    return names[hint]


def own_code_name(code: Any) -> str:
    """The name that a record gives to own code; a callable's is not importable."""
    return code if isinstance(code, str) else f"<{getattr(code, '__qualname__', type(code).__qualname__)}>"


def flag(name: str) -> str:
    """The command-line flag of a setting."""
    return "--" + name.rstrip("_").replace("_", "-")


def refuse_unknown(named: Collection[str]) -> None:
    """Raise UsageError for a name that no setting has."""
    for name in sorted(set(named) - setting_names()):
        near = difflib.get_close_matches(name, setting_names(), n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else "see `a3c train --help` for those there are"
        raise UsageError(f"there is no setting {name!r}; {hint}")


def setting_names() -> frozenset[str]:
    """The names of all settings."""
    return frozenset(field.name for field in fields(TrainConfig))
