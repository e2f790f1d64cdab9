"""Serve: models behind an OpenAI-compatible interface, every request under a policy."""

import re
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from demur.core.errors import BadInputError, MissingExtraError
from demur.core.exchange import Frozen
from demur.core.policy import Policy
from demur.serve.settings import ServerSettings

if TYPE_CHECKING:
    from demur.core.controlled import ControlledModel
    from demur.serve.keys import KeyRing

LOCAL_NAMES = ("127.0.0.1", "localhost", "::1")
_ALIAS = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,63})=(.+)", re.DOTALL)


class ServeConfig(Frozen):
    """A server, completely.

    Attributes:
        models: Model names, each maybe with the name requests use: 'small=smollm2+adapters/tokens'.
        policy: Policy file, or folder of policies; None = the presets, which promise nothing.
        default_policy: Policy of requests that choose none; None = 'default', or the only one.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        keys: File of API keys; None lets anybody in.
        insecure: Listen on an address that others reach, without keys.
        upstream: Base URL of a compatible server that runs the models; None = this process does.
        upstream_model: What the upstream calls the model; asked for by default.
        signal: Decides for models without control tokens, 'predictor:FOLDER' or 'guard:FOLDER'.
        engine: What runs models in this process.
        settings: Limits.
    """

    models: tuple[str, ...]
    policy: Path | None = None
    default_policy: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    keys: Path | None = None
    insecure: bool = False
    upstream: str | None = None
    upstream_model: str = ""
    signal: str | None = None
    engine: Literal["auto", "llamacpp", "transformers"] = "auto"
    settings: ServerSettings = ServerSettings()


def serve(config: ServeConfig, *, ready: Callable[[str, Sequence[str]], None]) -> None:
    """Serve until a signal. Everything that can be wrong is checked before a model is loaded.

    Args:
        config: The server.
        ready: Called with the address and the names requests may use, once requests are taken.

    Raises:
        UserError: Something the caller can fix.
        BackendError: A model could not be made ready.
    """
    _needs_server()
    from demur.serve.app import build_app
    from demur.serve.book import make_book
    from demur.serve.keys import NO_KEYS, read_keys
    from demur.serve.process import bound_socket, run
    from demur.serve.service import source_of

    keys = read_keys(config.keys) if config.keys else NO_KEYS
    settings = _settings(config, keys)
    policies = read_policies(config.policy) if config.policy else None
    with bound_socket(config.host, config.port) as bound:
        models = build_models(config)
        sources = {name: source_of(model) for name, model in models.items()}
        book = make_book(
            preset_policies(models) if policies is None else policies, sources, default=config.default_policy
        )
        app = build_app(models, book, settings, keys=keys, default_policy=config.default_policy)
        names = [name if p == book.defaults[name] else f"{name}@{p}" for name in models for p in book.shelves[name]]
        run(app, bound, ready=lambda url: ready(url, names))


def read_policies(path: Path) -> list[tuple[str, Policy]]:
    """Every policy at a path, and its file.

    Raises:
        BadInputError: There is none, or a file is not one.
    """
    from demur.control.policy_file import read_policy
    from demur.serve.book import policy_files

    if not path.exists():
        raise BadInputError(f"--policy {path}: expected a policy file or a folder of them, found nothing there")
    files = policy_files(path)
    if not files:
        raise BadInputError(f"--policy {path}: expected .toml files, found none; make one with 'demur calibrate'")
    return [(str(file), read_policy(file)) for file in files]


def preset_policies(models: Mapping[str, "ControlledModel"]) -> list[tuple[str, Policy]]:
    """The presets for every model: something to begin with where nothing is calibrated.

    Raises:
        BadInputError: A model whose signal does not tell its categories.
    """
    from demur.control.presets import PRESETS, preset
    from demur.serve.choice import categories_of
    from demur.serve.service import source_of

    found: dict[tuple[str, str], Policy] = {}  # models of one identity share theirs
    for name, model in models.items():
        if not categories_of(model):
            raise BadInputError(f"{name}: its signal does not name its categories; name a policy with --policy")
        for called in PRESETS:
            found[model.identity, called] = preset(called, source_of(model), categories_of(model))
    return [(f"preset {called}", policy) for (_, called), policy in found.items()]


def build_models(config: ServeConfig) -> Mapping[str, "ControlledModel"]:
    """Models by the name requests use; their weights are read when the server starts.

    Raises:
        BadInputError: Two of one name, or a model that cannot be controlled.
    """
    models: dict[str, ControlledModel] = {}
    for typed in config.models:
        aliased = _ALIAS.fullmatch(typed)
        model = _build(aliased[2] if aliased else typed, config)
        name = aliased[1] if aliased else model.name
        if name in models:
            raise BadInputError(f"two models are called {name!r}; name one of them: other={typed}")
        models[name] = model
    return models


def _build(name: str, config: ServeConfig) -> "ControlledModel":
    from demur.serve.rehearsal import NAME, Rehearsal

    if name == NAME:
        return Rehearsal()
    from demur.jobs.signal import signal_of
    from demur.jobs.steering import controlled

    return controlled(
        name,
        upstream=config.upstream,
        upstream_model=config.upstream_model,
        signal=signal_of(config.signal) if config.signal else None,
        engine=config.engine,
    )


def _settings(config: ServeConfig, keys: "KeyRing") -> ServerSettings:
    from demur.serve.process import is_loopback

    local, own = is_loopback(config.host), config.settings
    if not keys.keys and not local and not config.insecure:
        raise BadInputError(
            f"--host {config.host}: others can reach it and there are no keys; name a file with --keys, or say "
            "--insecure to let anybody in"
        )
    hosts = (*LOCAL_NAMES, config.host.lower()) if local and not keys.keys else ()
    return own.model_copy(
        update={"policy_path": config.policy, "allowed_hosts": hosts, "warm_up": config.upstream is None}
    )


def _needs_server() -> None:
    if any(find_spec(name) is None for name in ("fastapi", "uvicorn", "prometheus_client")):
        raise MissingExtraError("the server", extra="serve")
