"""From names to what they name: environments' ids, classes, wrappers, and the modules that register ids."""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import gymnasium as gym
from gymnasium.envs import registration
from gymnasium.envs.registration import EnvSpec

from a3c.errors import UnknownEnvironment, UsageError
from a3c.own_code import find_code, import_module, importable, reason, shortened

_PLUGINS = "gymnasium.envs"
"""Group of entry points by which a package says how its environments are registered."""

_EXTRAS = {"ALE": "atari", "MinAtar": "minatar"}
"""Namespaces of ids whose package is an extra of this one."""

_OWN_NORMALISATIONS: dict[type, str] = {
    gym.wrappers.NormalizeObservation: "--normalise-observations, which is on by default",
    gym.wrappers.NormalizeReward: "--scale-rewards, which is on by default",
}

_ARGUMENTS = re.compile(r"([^{]*?)\s*:\s*(\{.*)", re.DOTALL)
_MOST_LEVELS = 100
_RANDOM_SKIP_ATARI = re.compile(r"([A-Z][A-Za-z]+)-v[04]")
_NEW_ATARI = re.compile(r"[A-Z][A-Za-z]+-v5")
_OLD_ATARI = re.compile(r"[A-Z]\w*NoFrameskip-v\d")


def is_class_path(env: str) -> bool:
    """Whether `env` is "package.module:Class"; "ALE/Pong-v5" and "module:Env-v0" are Gymnasium's ids."""
    return ":" in env and all(part.isidentifier() for part in env.rpartition(":")[2].split("."))


def is_atari_id(env: str) -> bool:
    """Whether `env` is an id of one of ALE's games, whether or not there is such a game."""
    env_id = env.rpartition(":")[2]
    return env_id.startswith("ALE/") or bool(_OLD_ATARI.fullmatch(env_id))


def find_spec(name: str) -> EnvSpec:
    """What is registered as `name`, an id or MODULE:ID. Its package is imported if it is known which that is.

    Raises:
        UnknownEnvironment: nothing is; the message names near ones.
        UsageError: it belongs to an extra that is not installed; the message says how to install it.
    """
    module_name, _, env_id = name.rpartition(":")
    if module_name:
        import_registering(module_name, f"environment {name!r}")
    if env_id not in gym.registry:
        _register_by_name(env_id)
    try:
        spec = gym.spec(env_id)
        if isinstance(spec.kwargs.get("frameskip"), tuple) and (atari := _RANDOM_SKIP_ATARI.fullmatch(env_id)):
            raise _random_skip(env_id, f"ALE/{atari[1]}-v5")
        return spec
    except gym.error.DeprecatedEnv as error:
        raise UnknownEnvironment(f"environment {env_id!r} is out of date: {error}") from None
    except gym.error.NamespaceNotFound as error:
        raise UnknownEnvironment(
            f"there is no environment {env_id!r}: {error} If a package registers it, name that, too: MODULE:{env_id}"
        ) from None
    except (gym.error.Error, ModuleNotFoundError, ValueError) as error:
        if (atari := _RANDOM_SKIP_ATARI.fullmatch(env_id)) and (game := f"ALE/{atari[1]}-v5") in _ale_ids():
            raise _random_skip(env_id, game) from None
        near = _near(env_id)
        hint = f"did you mean {' or '.join(near)}?" if near else "see gymnasium.pprint_registry() for those there are"
        detail = f" ({error})" if isinstance(error, ModuleNotFoundError) else ""
        raise UnknownEnvironment(f"there is no environment {env_id!r}{detail}; {hint}") from None


def _near(env_id: str) -> list[str]:
    """What may have been meant: Class in its module, a game without its namespace, an id that is written alike."""
    module_name, dot, name = env_id.rpartition(".")
    if dot and name.isidentifier() and importable(module_name):
        return [f"{module_name}:{name}"]
    if env_id.isidentifier() and importable(env_id):
        return [f"{env_id}:CLASS"]
    games = _ale_ids()
    game = f"ALE/{env_id}"
    for known in (game, f"{game}-v5"):
        if known in games:
            return [known]
    near = difflib.get_close_matches(env_id, gym.registry, n=3, cutoff=0.5)
    if not near:
        lowered = {name.lower(): name for name in gym.registry}
        near = [lowered[n] for n in difflib.get_close_matches(env_id.lower(), lowered, n=3, cutoff=0.5)]
    return [*near, game] if _NEW_ATARI.fullmatch(env_id) and not games else near  # whose extra may be missing


def _ale_ids() -> set[str]:
    with contextlib.suppress(ModuleNotFoundError):
        importlib.import_module("ale_py")
    return {env_id for env_id in gym.registry if env_id.startswith("ALE/")}


def _random_skip(env_id: str, instead: str) -> UnknownEnvironment:
    return UnknownEnvironment(
        f"environment {env_id!r} is an Atari game with a random frame skip, which the Atari preprocessing replaces: "
        f"take {instead}"
    )


def find_class(path: str) -> Callable[..., Any]:
    """The class or callable that "package.module:Class" names. Raises UnknownEnvironment if there is none."""
    return find_code(path, f"environment {path!r}", UnknownEnvironment)


def find_wrapper(wrapper: str | Callable[[gym.Env[Any, Any]], Any]) -> Callable[[gym.Env[Any, Any]], Any]:
    """A callable `env -> env`: `wrapper` itself, "package.module:Wrapper", or a name in gymnasium.wrappers.

    A name may be followed by keyword arguments: `FrameStackObservation:{"stack_size": 4}`.

    Raises UsageError if the name leads nowhere, or to a normalisation that each environment would have for itself.
    """
    if not isinstance(wrapper, str):
        refuse_own_normalisation(wrapper)
        return wrapper
    name, arguments = split_wrapper(wrapper)
    found = _find_wrapper(name)
    refuse_own_normalisation(found)
    if not arguments:
        return found
    _check_arguments(found, name, arguments)
    return functools.partial(found, **arguments)


def split_wrapper(wrapper: str) -> tuple[str, dict[str, Any]]:
    """A wrapper's name and its keyword arguments. Raises UsageError if these are no JSON object."""
    parts = _ARGUMENTS.fullmatch(wrapper)
    if parts is None:
        return wrapper, {}
    try:
        if parts[2].count("{") + parts[2].count("[") > _MOST_LEVELS:
            raise ValueError("it is nested too deep")
        return parts[1], dict(json.loads(parts[2]))
    except ValueError as error:
        raise UsageError(
            f"the arguments of wrapper {shortened(parts[1])!r} are no JSON object ({error}); write NAME:JSON, for "
            "example 'FrameStackObservation:{\"stack_size\": 4}'"
        ) from None


def _check_arguments(wrapper: Callable[..., Any], name: str, arguments: Mapping[str, Any]) -> None:
    """Raise UsageError, with those that there are, for an argument that a wrapper does not take."""
    try:
        parameters = list(inspect.signature(wrapper).parameters.values())[1:]  # behind the environment
    except (TypeError, ValueError):
        return
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    taken = [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_POSITIONAL]
    if unknown := sorted(set(arguments) - set(taken)):
        takes = f"it takes {', '.join(taken)}" if taken else "it takes none"
        raise UsageError(f"wrapper {name!r} has no argument {shortened(unknown[0])!r}: {takes}")


def refuse_own_normalisation(wrapper: Any) -> None:
    """Raise UsageError for a wrapper, or a class of such, whose statistics would be each environment's own."""
    kind = wrapper if isinstance(wrapper, type) else type(wrapper)
    for normalisation, instead in _OWN_NORMALISATIONS.items():
        if issubclass(kind, normalisation):
            raise UsageError(
                f"wrapper {normalisation.__name__} keeps statistics of its own in each environment, which no other one "
                f"shares and no checkpoint holds: take {instead}"
            )


def _find_wrapper(wrapper: str) -> Callable[[gym.Env[Any, Any]], Any]:
    if ":" in wrapper:
        return find_code(wrapper, f"wrapper {wrapper!r}")
    found: Callable[[gym.Env[Any, Any]], Any] | None = getattr(gym.wrappers, wrapper, None)
    if callable(found):
        return found
    near = difflib.get_close_matches(wrapper, gym.wrappers.__all__, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise UsageError(
        f"there is no wrapper {shortened(wrapper)!r} in gymnasium.wrappers; {hint}one of your own is "
        "package.module:Wrapper"
    )


def import_registering(module_name: str, what: str) -> None:
    """Import a module and register its package's environments, if that takes more than the import.

    Raises UnknownEnvironment, which calls what was asked for `what`, if the module cannot be imported.
    """
    import_module(module_name, what, UnknownEnvironment)
    package = module_name.partition(".")[0]
    for plugin in entry_points(group=_PLUGINS):
        if plugin.module.partition(".")[0] == package and plugin.name not in _namespaces():
            _load(plugin, what)


def missing_extra(what: str, extra: str) -> UsageError:
    """The error that says which extra to install."""
    return UsageError(f'{what} wants a package that is missing: pip install "a3c[{extra}]"')


def _register_by_name(env_id: str) -> None:
    """Register the environments of the package that an id's namespace or form points to, if there is one."""
    space = "ALE" if _OLD_ATARI.fullmatch(env_id) else env_id.partition("/")[0] if "/" in env_id else None
    if space is None or space in _namespaces():
        return
    what = f"environment {env_id!r}"
    if space == "ALE":
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module("ale_py")
            return
    for plugin in entry_points(group=_PLUGINS, name=space):
        _load(plugin, what)
    if space in _EXTRAS and space not in _namespaces():
        raise missing_extra(what, _EXTRAS[space])


def _load(plugin: EntryPoint, what: str) -> None:
    try:
        _register(plugin)
    except Exception as error:
        raise UnknownEnvironment(
            f"{what}: {plugin.value} cannot register its environments ({reason(error)})"
        ) from error


@functools.cache  # once a process: Gymnasium warns of whatever is registered again
def _register(plugin: EntryPoint) -> None:
    # Gymnasium's own way until 1.0, when it stopped to do it unasked.
    with _namespace(None if plugin.name.startswith("__") else plugin.name):
        register = plugin.load()
        if callable(register):
            register()


@contextlib.contextmanager
def _namespace(name: str | None) -> Iterator[None]:
    before, registration.current_namespace = registration.current_namespace, name
    try:
        yield
    finally:  # Gymnasium's own leaves its namespace behind when registering fails
        registration.current_namespace = before


def _namespaces() -> set[str | None]:
    return {spec.namespace for spec in gym.registry.values()}
