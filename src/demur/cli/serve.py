"""`demur serve`: an OpenAI-compatible server in which every request carries its own policy."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

Models = Annotated[
    list[str],
    typer.Argument(help="Models to serve; NAME=MODEL sets the name requests use. 'rehearsal' needs no weights."),
]
Policies = Annotated[
    Path | None,
    typer.Option("--policy", "-p", help="Policy file, or folder of them; watched for changes. Presets without it."),
]
DefaultPolicy = Annotated[
    str | None, typer.Option(help="Policy of requests that choose none; 'default' or the only one by default.")
]
Insecure = Annotated[bool, typer.Option("--insecure", help="Let anybody in on an address that others reach.")]
Upstream = Annotated[str | None, typer.Option(help="Base URL of a compatible server that runs the models.")]
UpstreamModel = Annotated[str, typer.Option(help="What that server calls the model; asked for by default.")]
SignalName = Annotated[
    str | None, typer.Option(help="Decides for models without control tokens: predictor:FOLDER or guard:FOLDER.")
]
Engine = Annotated[Literal["auto", "llamacpp", "transformers"], typer.Option(help="What runs models in this process.")]
AccessLog = Annotated[bool, typer.Option("--access-log", help="One line for each request; never its text.")]


def serve_command(
    model: Models,
    policy: Policies = None,
    default_policy: DefaultPolicy = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    keys: Annotated[Path | None, typer.Option(help="TOML file of API keys.")] = None,
    insecure: Insecure = False,
    upstream: Upstream = None,
    upstream_model: UpstreamModel = "",
    signal: SignalName = None,
    engine: Engine = "auto",
    max_running: Annotated[int, typer.Option(min=1, help="Requests read or written at a time.")] = 32,
    max_queue: Annotated[int, typer.Option(min=0, help="Requests that may wait; one more gets 429.")] = 128,
    timeout: Annotated[float, typer.Option(min=0.001, help="Longest time for a request, in seconds.")] = 120.0,
    max_body: Annotated[int, typer.Option(min=1, help="Largest body, in bytes; one more gets 413.")] = 1 << 20,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens a request may ask for.")] = 4096,
    default_max_tokens: Annotated[int, typer.Option(min=1, help="Tokens where a request does not say.")] = 512,
    drain_seconds: Annotated[float, typer.Option(min=0, help="After SIGTERM, time for what has begun.")] = 30.0,
    access_log: AccessLog = False,
) -> None:
    """Serve models under policies: chat completions, models, health, metrics.

    SIGTERM and Ctrl-C finish what has begun; SIGHUP reads the policies again, as does a change of their files.

    Example: demur serve smollm2+adapters/tokens --policy policies/
    """
    from demur.jobs.serve import ServeConfig, serve
    from demur.serve.settings import ServerSettings

    settings = ServerSettings(
        max_running=max_running,
        max_queue=max_queue,
        timeout_s=timeout,
        max_body_bytes=max_body,
        max_tokens=max_tokens,
        default_max_tokens=default_max_tokens,
        drain_s=drain_seconds,
        access_log=access_log,
    )
    config = ServeConfig(
        models=tuple(model),
        policy=policy,
        default_policy=default_policy,
        host=host,
        port=port,
        keys=keys,
        insecure=insecure,
        upstream=upstream,
        upstream_model=upstream_model,
        signal=signal,
        engine=engine,
        settings=settings,
    )
    _set_logging()
    if policy is None:
        typer.echo("no --policy: the presets strict, default and lenient, which are not calibrated", err=True)
    serve(config, ready=_announce)


def _set_logging() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("demur.serve").setLevel(logging.INFO)


def _announce(url: str, names: Sequence[str]) -> None:
    typer.echo(f"serving {', '.join(names)} on {url}/v1")
