"""`demur images synthesise | review` and `demur suites synthesise | review`: a suite for a policy of one's own."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from demur.cli.suites import suites_command

if TYPE_CHECKING:
    from demur.jobs.synthesis import SynthesisFindings
    from demur.synthesis.policy import Kind

Policy = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The policy: .toml, .yaml or .json.")]
Model = Annotated[str, typer.Option("--model", "-m", help="Who writes: any model by name, e.g. openai/gpt-4.1.")]
Judges = Annotated[
    list[str] | None,
    typer.Option("--judge", "-j", help="Who audits; repeatable, best of other makers than the writer's."),
]
Count = Annotated[int, typer.Option("--n", min=1, help="Prompts wanted.")]
Out = Annotated[
    Path | None, typer.Option("--out", "-o", file_okay=False, help="Folder of the run; runs/synthesis-POLICY.")
]
Against = Annotated[
    list[str] | None, typer.Option(help="Suite or file whose prompts must not be written again; repeatable.")
]
Seed = Annotated[int, typer.Option(help="Of lengths, voices and reasons that are drawn.")]
Oversample = Annotated[
    float, typer.Option(min=1.0, max=10.0, help="Drafts for each prompt wanted, in the first round.")
]
Rounds = Annotated[int, typer.Option(min=1, max=20, help="Rounds at most, while prompts are missing.")]
Near = Annotated[float, typer.Option(min=0.05, max=1.0, help="Jaccard index of 5-grams that makes a duplicate.")]
Connections = Annotated[int, typer.Option(min=1, help="Requests in flight.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Run = Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of a synthesis.")]


def _synthesise_command(kind: "Kind", subject: str, example: str) -> Callable[..., None]:
    """The command for one kind of suite: the same options, another noun."""

    def command(
        policy: Policy,
        model: Model,
        out: Out = None,
        judge: Judges = None,
        n: Count = 100,
        against: Against = None,
        seed: Seed = 0,
        oversample: Oversample = 1.6,
        rounds: Rounds = 3,
        near: Near = 0.5,
        connections: Connections = 8,
        as_json: AsJson = False,
    ) -> None:
        effort = {"n": n, "seed": seed, "oversample": oversample, "rounds": rounds, "near": near}
        _synthesise(kind, policy, model, out, judge or [], against or [], connections, effort, as_json)

    command.__doc__ = (
        f"Write alarming but allowed requests for {subject}, for your own policy, audited and made into a suite.\n\n"
        f"Example: {example}"
    )
    return command


synthesise_images_command = _synthesise_command(
    "image",
    "pictures",
    "demur images synthesise policy.yaml --model openai/gpt-4.1 --judge anthropic/claude-sonnet-4-5 --n 500 -o runs/synth",
)
synthesise_text_command = _synthesise_command(
    "text",
    "text",
    "demur suites synthesise policy.toml --model openai/gpt-4.1 --judge anthropic/claude-sonnet-4-5 --n 200 -o runs/synth",
)


def review_command(
    run: Run,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine; 0 for any free one.")] = 0,
    reviewer: Annotated[str, typer.Option(help="Stands beside every decision.")] = "",
    static: Annotated[bool, typer.Option("--static", help="Write review.html instead of serving the page.")] = False,
    decisions: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="decisions.json that such a page saved.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Keep, drop or rewrite synthesised prompts by keyboard in the browser; only what is kept enters the suite.

    Example: demur images review runs/synth --reviewer mk
    """
    from demur.jobs.review import serve_review, take_decisions, write_review

    if static:
        typer.echo(f"page: {write_review(run)}")
        typer.echo(f"then: review {run} --decisions decisions.json")
        return
    if decisions is not None:
        n_new, findings = take_decisions(run, decisions, reviewer=reviewer)
        typer.echo(f"{n_new} new decisions", err=True)
    else:
        findings = serve_review(run, port=port, reviewer=reviewer, ready=_announce)
    _show(findings, run, as_json=as_json)


suites_app = typer.Typer(invoke_without_command=True, help="What can be asked; suites for a policy of your own.")
suites_app.command("synthesise")(synthesise_text_command)
suites_app.command("review")(review_command)


@suites_app.callback()
def list_suites(
    context: typer.Context,
    taxonomy: Annotated[
        bool, typer.Option("--taxonomy", help="Print the taxonomy file that --taxonomy of audit extends.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List suites with their size, licence and source, or write one of your own.

    Example: demur suites --json
    """
    if context.invoked_subcommand is None:
        suites_command(taxonomy=taxonomy, as_json=as_json)


def add_synthesis(images_app: typer.Typer) -> None:
    """Register both commands under `demur images`."""
    images_app.command("synthesise")(synthesise_images_command)
    images_app.command("review")(review_command)


def _synthesise(
    kind: "Kind",
    policy: Path,
    model: str,
    out: Path | None,
    judges: list[str],
    against: list[str],
    connections: int,
    effort: dict[str, float],
    as_json: bool,
) -> None:
    from demur.cli.progress import shown_stages
    from demur.jobs.synthesis import SynthesisConfig, synthesise
    from demur.synthesis.workflow import Effort

    folder = out or Path("runs") / f"synthesis-{policy.stem}"
    config = SynthesisConfig(
        policy=policy,
        kind=kind,
        model=model,
        out=folder,
        judges=tuple(judges),
        effort=Effort.model_validate(effort),
        against=tuple(against),
        connections=connections,
    )
    with shown_stages() as progress:
        findings = synthesise(config, progress=progress)
    _show(findings, folder, as_json=as_json)


def _announce(address: str) -> None:
    typer.echo(f"review at {address} (this machine only; Ctrl-C ends and writes the suite)", err=True)


def _show(findings: "SynthesisFindings", out: Path, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(findings.model_dump(mode="json")))
        return
    from demur.cli.tables import print_table

    rows = [[name, str(n), str(findings.rows.get(name, 0))] for name, n in findings.wanted.items()]
    print_table(f"{findings.policy}: prompts by category", ["category", "wanted", "in the suite"], rows, right=(1, 2))
    typer.echo("drafts: " + ", ".join(f"{n} {state.replace('_', ' ')}" for state, n in findings.states.items()))
    for check in findings.checks:
        typer.echo(f"judge {check.judge}: {check.n} prompts, {check.n_unjudged} without a readable answer")
    for name, said in findings.failures.items():
        typer.echo(f"note: {name}: {said}; run the same command to ask again")
    if not findings.reviewed:
        typer.echo(f"nobody has looked at them yet: 'review {out}' opens a page for it")
    typer.echo(f"suite: {out / findings.suite}; card: {out / 'suite' / 'card.md'}")
