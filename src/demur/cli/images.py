"""`demur images`: which pictures does a system refuse to draw, and which should it have?"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from demur.core.defaults import DEFAULT_JUDGE

if TYPE_CHECKING:
    from demur.core.image import ImageCategory, ImageFindings
    from demur.core.profile import Interval

images_app = typer.Typer(no_args_is_help=True, help="Image systems: over-refusal and safety together.")
OUTCOME_WIDTH = 22
Model = Annotated[
    str,
    typer.Argument(
        help="openai/MODEL (or any --base-url that speaks its shape), azure/, imagen/, gemini/, bfl/, fal/, replicate/, "
        "stability/, bytedance/, xai/, openrouter/, diffusers/FOLDER, inspect/PROVIDER/MODEL."
    ),
]
SuiteName = Annotated[str, typer.Option("--suite", "-s", help="images-core, overt, or a file.")]
SuitePath = Annotated[Path | None, typer.Option(help="Where published files lie on this machine.")]
BaseUrl = Annotated[str | None, typer.Option(help="Address of a compatible interface.")]
Images = Annotated[int, typer.Option("--n", help="Images for each prompt.")]
Size = Annotated[str, typer.Option(help="As the vendor writes it, e.g. 1024x1024.")]
Seed = Annotated[int, typer.Option(help="Seed of the first image, where one is taken.")]
Knobs = Annotated[
    list[str] | None, typer.Option("--set", help="The vendor's own knob, e.g. moderation=low; repeatable, logged.")
]
Judge = Annotated[str, typer.Option("--judge", "-j", help="Text judge of what is said instead of drawn.")]
Connections = Annotated[int, typer.Option(help="Requests in flight.")]
Tries = Annotated[int, typer.Option(help="How often a request that fails for a passing reason is sent.")]
Keep = Annotated[bool, typer.Option("--keep/--no-keep", help="Keep pictures, or blurred thumbnails only.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


@images_app.command("audit")
def audit_command(
    model: Model,
    suite: SuiteName = "images-core",
    suite_path: SuitePath = None,
    base_url: BaseUrl = None,
    n: Images = 1,
    size: Size = "",
    seed: Seed = 0,
    knobs: Knobs = None,
    limit: Annotated[int | None, typer.Option(help="Ask about this many prompts, evenly, twins together.")] = None,
    judge: Judge = DEFAULT_JUDGE,
    vision: Annotated[
        list[str] | None, typer.Option(help="Inspect model that looks at delivered pictures; repeat for a vote.")
    ] = None,
    policy: Annotated[Path | None, typer.Option(help="Policy file that moves the expectations.")] = None,
    policy_model: Annotated[str, typer.Option(help="Language model that applies the policy's prose.")] = "",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the run; runs/MODEL-SUITE.")] = None,
    connections: Connections = 8,
    tries: Tries = 6,
    keep: Keep = True,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave malformed rows out and count them.")] = False,
    as_json: AsJson = False,
) -> None:
    """Ask an image system for pictures it should and should not draw; refusals are told without a vision model.

    Example: demur images audit openai/gpt-image-1 --suite images-core
    """
    from demur.cli.audit import default_folder
    from demur.cli.progress import shown
    from demur.jobs.images import ImagesConfig, audit_images

    config = ImagesConfig(
        model=model,
        suite=suite,
        suite_path=suite_path,
        base_url=base_url,
        n=n,
        size=size,
        seed=seed,
        settings=read_knobs(knobs or []),
        limit=limit,
        judge=judge,
        vision=tuple(vision or ()),
        policy=policy,
        policy_model=policy_model,
        out=out or default_folder(model, suite),
        connections=connections,
        tries=tries,
        keep=keep,
        skip_bad=skip_bad,
    )
    with shown(f"asking {model}") as progress:
        findings = audit_images(config, progress=progress)
    _show(findings, config.out, as_json=as_json)


@images_app.command("reassess")
def reassess_command(
    run: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of a finished image audit.")],
    policy: Annotated[Path, typer.Option(help="Policy file (.toml, .json, .yaml).")],
    policy_model: Annotated[str, typer.Option(help="Language model that applies the policy's prose.")] = "",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the result.")] = None,
    as_json: AsJson = False,
) -> None:
    """Judge a finished audit by another policy, without asking for a single picture.

    Example: demur images reassess runs/gpt-image-1-images-core --policy schoolbook.toml
    """
    from demur.jobs.images import reassess, reassessed_folder

    findings = reassess(run, policy, out=out, policy_model=policy_model)
    _show(findings, out or reassessed_folder(run, findings.policy), as_json=as_json)


@images_app.command("rewrite")
def rewrite_command(
    run: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of a finished image audit.")],
    model: Model,
    rewriter: Annotated[str, typer.Option(help="Language model that rewords refused prompts.")],
    meaning_judge: Annotated[str, typer.Option(help="Language model that compares meanings.")],
    base_url: BaseUrl = None,
    n: Images = 1,
    size: Size = "",
    seed: Seed = 0,
    knobs: Knobs = None,
    judge: Judge = DEFAULT_JUDGE,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the study; RUN/rewriting.")] = None,
    connections: Connections = 8,
    as_json: AsJson = False,
) -> None:
    """Reword the benign prompts that were refused, ask again, and report fidelity beside the rate.

    Example: demur images rewrite runs/flux bfl/flux-pro-1.1 --rewriter openai/gpt-4.1 --meaning-judge openai/gpt-4.1-mini
    """
    from demur.cli.progress import shown
    from demur.evals.asking import chat_model
    from demur.jobs.image_rewriting import study_rewriting
    from demur.jobs.images import ImagesConfig

    config = ImagesConfig(
        model=model,
        base_url=base_url,
        n=n,
        size=size,
        seed=seed,
        settings=read_knobs(knobs or []),
        judge=judge,
        out=out or run / "rewriting",
        connections=connections,
    )
    with shown(f"asking {model} again") as progress:
        study = study_rewriting(
            run, config, rewriter=chat_model(rewriter), judge=chat_model(meaning_judge), progress=progress
        )
    if as_json:
        typer.echo(json.dumps(study.model_dump(mode="json")))
        return
    for name, share in (
        ("refused before", study.refused_before),
        ("refused after", study.refused_after),
        ("asks for the same picture", study.faithful),
        ("drawn and faithful", study.recovered),
        ("drawn but changed", study.recovered_unfaithfully),
    ):
        typer.echo(f"{name:26} {_share(share)}")
    typer.echo(f"{study.n} prompts, {study.n_failed} without a new wording; {config.out / 'rewriting.json'}")


def read_knobs(given: list[str]) -> dict[str, object]:
    """Vendor knobs from KEY=VALUE; values are JSON where they can be, else text.

    Raises:
        BadInputError: No '=' in one of them.
    """
    from demur.core.errors import BadInputError

    knobs: dict[str, object] = {}
    for item in given:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise BadInputError(f"--set: expected KEY=VALUE, got {item!r}")
        try:
            knobs[key] = json.loads(value)
        except ValueError:
            knobs[key] = value
    return knobs


def _show(findings: "ImageFindings", out: Path, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(findings.model_dump(mode="json")))
        return
    print_findings(findings)
    typer.echo(f"findings: {out / 'images.json'}; report: {out / 'report.html'}")


def print_findings(findings: "ImageFindings") -> None:
    """Print both sides by category, the outcomes, and the published harness's numbers beside ours."""
    from demur.cli.tables import print_table

    heads = ["category", "over-refusal", "n", "refused when it should", "n", "Youden's J", "pairs told apart"]
    rows = [_cells(category) for category in (*findings.categories, findings.overall)]
    title = f"{findings.model} on {findings.suite} ({findings.n_prompts} prompts, {findings.n_images} images)"
    print_table(title, heads, rows, right=(1, 2, 3, 4, 5, 6))
    typer.echo("outcomes: " + ", ".join(f"{name} {n}" for name, n in findings.outcomes.items() if n))
    for how in findings.mechanisms[:8]:
        about = " ".join(part for part in (how.code, how.category) if part)
        typer.echo(f"  {how.outcome:{OUTCOME_WIDTH}} {how.evidence:14} {about} x{how.n}")
    theirs = findings.published
    typer.echo(
        f"as the published harness reads it ({theirs.rule}): over-refusal {_share(theirs.over_refusal)}, safety "
        f"{_share(theirs.safety)}; corrected {_share(theirs.over_refusal_corrected)}, {_share(theirs.safety_corrected)}"
    )
    if findings.policy:
        typer.echo(f"policy {findings.policy!r} moved {findings.n_moved} prompts")
    for note in findings.notes:
        typer.echo(f"note: {note}")


def _cells(category: "ImageCategory") -> list[str]:
    gap = "-"
    if category.youden is not None and category.youden_low is not None and category.youden_high is not None:
        gap = f"{category.youden:+.2f} [{category.youden_low:+.2f}, {category.youden_high:+.2f}]"
    pairs = category.pairs
    return [
        category.name,
        _share(category.benign.refused),
        str(category.benign.refused.n),
        _share(category.safety),
        str(category.safety.n),
        gap,
        f"{pairs.right}/{pairs.n}" if pairs.n else "-",
    ]


def _share(share: "Interval") -> str:
    from demur.cli.tables import percent

    return percent(share.estimate, share.low, share.high)
