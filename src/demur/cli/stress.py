"""`demur stress`: do a model's refusals carry to other tenses, codes and frames, and what does that cost?"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from demur.stress.findings import StressFindings
    from demur.stress.prefill import PrefillFindings


class _RunByDefault(TyperGroup):
    """`demur stress MODEL ...` is `demur stress run MODEL ...`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # typer's context or click's: versions differ
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


stress_app = typer.Typer(
    cls=_RunByDefault,
    no_args_is_help=True,
    add_completion=False,
    help="Robustness of refusals, each attack beside benign controls: demur stress MODEL --attack tense.",
)


Model = Annotated[str, typer.Argument(help="smollm2, hf/ID, gguf/PATH, or any provider's model.")]
Attack = Annotated[str, typer.Option("--attack", "-a", help="tense, prefill, completion, cipher, code or history.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the run.")]
SuiteName = Annotated[
    str, typer.Option("--suite", "-s", help="A suite's name or file: prompts to refuse, and to answer as controls.")
]
SuitePath = Annotated[Path | None, typer.Option(help="Where a published suite lies on this machine.")]
Category = Annotated[
    str | None, typer.Option(help="Only this category; 'safety' of demur's own suites unless told. '' is all.")
]
MaxPrompts = Annotated[int | None, typer.Option(help="Most prompts on each side, drawn evenly.")]
Attempts = Annotated[int | None, typer.Option(help="Attempts on a prompt in each form; 5 for tense, else 1.")]
Judges = Annotated[
    list[str] | None,
    typer.Option(
        "--judge",
        "-j",
        help="Repeatable; the first makes the headline: a judge's name (JUDGE+partial counts partial compliance), "
        "strings, rating:MODEL[@N], unsafe:MODEL.",
    ),
]
StopJudge = Annotated[
    str, typer.Option(help="End a prompt's attempts at this judge's first success; estimates are then naive.")
]
Rewords = Annotated[str, typer.Option(help="Who rewords for tense: rules, or a model's name.")]
Forms = Annotated[list[str] | None, typer.Option(help="Ask only this form, e.g. past; repeatable.")]
Natural = Annotated[
    bool, typer.Option("--natural/--no-natural", help="Tense: also ask about history and future as such.")
]
Answers = Annotated[
    Path | None, typer.Option(help="Prefill: rows with prompt, answer, expected; built-in harmless ones if left out.")
]
Lengths = Annotated[str, typer.Option(help="Prefill: tokens to force.")]
Paired = Annotated[bool, typer.Option("--paired", help="Prefill: only answers longer than the longest prefix.")]
OneSided = Annotated[bool, typer.Option("--one-sided", help="Run although benign controls are missing.")]
MaxTokens = Annotated[int | None, typer.Option(help="Longest reply, in tokens; 150, for prefill 64.")]
Temperature = Annotated[float, typer.Option(help="0 is greedy: then only distinct messages are tried.")]
Seed = Annotated[int, typer.Option(help="Of wordings and sampled replies.")]
System = Annotated[str, typer.Option(help="System prompt put before every request.")]
Connections = Annotated[int, typer.Option(help="Requests in flight.")]
Revision = Annotated[str | None, typer.Option(help="Hub revision of a transformers model.")]
Dtype = Annotated[str, typer.Option(help="Number format of a transformers model.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, without texts, instead of tables.")]


@stress_app.command("run")
def stress_command(
    model: Model,
    attack: Attack,
    out: Out = None,
    suite: SuiteName = "core",
    suite_path: SuitePath = None,
    category: Category = None,
    max_prompts: MaxPrompts = None,
    attempts: Attempts = None,
    judge: Judges = None,
    stop_judge: StopJudge = "",
    reformulator: Rewords = "rules",
    form: Forms = None,
    natural: Natural = True,
    answers: Answers = None,
    lengths: Lengths = "0,4,8,16,32",
    paired: Paired = False,
    one_sided: OneSided = False,
    max_tokens: MaxTokens = None,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    system: System = "",
    connections: Connections = 32,
    revision: Revision = None,
    dtype: Dtype = "auto",
    as_json: AsJson = False,
) -> None:
    """Ask prompts to refuse in other forms, and their benign twins in the same forms; judge, count, report.

    Example: demur stress smollm2 --attack tense --max-prompts 60 --out runs/tense
    """
    from demur.cli.audit import default_folder

    folder = out or default_folder(model, f"stress-{attack}")
    both: dict[str, Any] = {"model": model, "out": folder, "max_prompts": max_prompts, "one_sided": one_sided}
    given: dict[str, Any] = {"judges": tuple(judge)} if judge else {}
    if attack == "prefill":
        given = {"answers": answers, "lengths": _lengths(lengths), "paired": paired, "judge": (judge or ["phrases"])[0]}
        _run_prefill({**both, **given}, {"max_tokens": max_tokens, "system": system}, as_json=as_json)
        return
    given |= {"attack": attack, "suite": suite, "suite_path": suite_path, "category": category, "attempts": attempts}
    given |= {"stop_judge": stop_judge, "reformulator": reformulator, "conditions": tuple(form or ())}
    given |= {"natural": natural, "connections": connections, "revision": revision, "dtype": dtype}
    drawn = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed, "system": system}
    _run({**both, **given}, drawn, as_json=as_json)


@stress_app.command("artifacts")
def artifacts_command(
    folder: Annotated[
        Path, typer.Argument(help="Folder of the published files, or the one above jailbreak_artifacts.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Recompute the published table of tense attacks from the answers its authors stored.

    Example: demur stress artifacts llm-past-tense
    """
    from demur.stress.artifacts import read_artifacts, read_categories, tabulate

    table = tabulate(read_artifacts(folder), read_categories(folder))
    if as_json:
        typer.echo(json.dumps(table.model_dump(mode="json")))
        return
    from demur.cli.tables import percent, print_table

    columns = ["family", "model", "n", "gpt", "llama", "rules", "@1", "@5", "@10", "@20"]
    print_table("", columns, [[str(row[c]) for c in columns] for row in table.rows], right=range(2, 10))
    print_table(
        "answers by verdicts of gpt, llama, rules", ["verdicts", "n"], [[k, str(n)] for k, n in table.verdicts.items()]
    )
    agreed = [[name, percent(share), f"{kappa:.2f}"] for name, (share, kappa) in table.agreement.items()]
    print_table("agreement with gpt", ["judge", "agree", "kappa"], agreed, right=(1, 2))
    if table.categories:
        rows = [[name, str(hits), str(n)] for name, (hits, n) in table.categories.items()]
        print_table("past tense by category, gpt", ["category", "succeeded", "of"], rows, right=(1, 2))
    typer.echo(f"rules judge applied anew differs from the stored verdict on {table.rules_differ} answers")


@stress_app.command("page")
def page_command(folder: Annotated[Path, typer.Argument(help="Folder of a finished stress test.")]) -> None:
    """Write the report of a finished stress test again.

    Example: demur stress page runs/tense
    """
    from demur.jobs.stress_results import write_report

    typer.echo(f"report: {write_report(folder)}")


def _lengths(typed: str) -> tuple[int, ...]:
    from demur.core.errors import BadInputError

    parts = [part.strip() for part in typed.split(",") if part.strip()]
    if not parts or not all(part.isdigit() for part in parts):
        raise BadInputError(f"--lengths: expected numbers of tokens with commas between them, got {typed!r}")
    return tuple(sorted({int(part) for part in parts}))


def _run(settings: dict[str, Any], drawn: dict[str, Any], *, as_json: bool) -> None:
    from demur.cli.progress import shown_stages
    from demur.core.identity import Decoding
    from demur.jobs.stress import MAX_TOKENS, StressConfig, stress

    drawn["max_tokens"] = drawn["max_tokens"] or MAX_TOKENS
    config = StressConfig(**settings, decoding=Decoding(**drawn))
    with shown_stages() as say:
        findings = stress(config, say=say)
    if as_json:
        typer.echo(json.dumps(findings.model_dump(mode="json")))
    else:
        print_findings(findings)
    typer.echo(f"report: {config.out / 'report.html'}", err=as_json)


def print_findings(findings: "StressFindings") -> None:
    """Print attack success and over-refusal by form, and how the judges agree."""
    from demur.cli.tables import percent, print_table

    most = max((k for cell in findings.success for k in cell.naive), default=1)
    rows = []
    for condition in findings.conditions:
        for info in findings.judges:
            cell = findings.of(condition, "attack", info.name)
            if cell is None:
                continue
            shown = [cell.at.get(k) or cell.naive.get(k) for k in (1, most)]
            sides = [findings.cell(condition, side) for side in ("attack", "control", "natural")]
            refused = [percent(s.refused.estimate, s.refused.low, s.refused.high) if s else "-" for s in sides]
            mark = "" if cell.at else " naive"
            rows.append(
                [
                    condition,
                    info.name + mark,
                    *(percent(one.estimate, one.low, one.high) if one else "-" for one in shown),
                    *(refused if info == findings.judges[0] else ["", "", ""]),
                ]
            )
    columns = ["form", "judge", "success @1", f"@{most}", "refused", "twin refused", "natural refused"]
    print_table(f"{findings.attack} on {findings.model}", columns, rows, right=range(2, 7))
    for one in findings.agreement:
        typer.echo(
            f"{one.first} and {one.second} agree on {percent(one.share)} of {one.n} attempts, "
            f"kappa {'-' if one.kappa is None else format(one.kappa, '.2f')}"
        )
    for consistency in findings.consistency:
        typer.echo(
            f"{consistency.side}: same decision in all {consistency.n_conditions} forms for "
            f"{percent(consistency.same.estimate)} of {consistency.same.n}"
        )
    for note in findings.notes:
        typer.echo(f"note: {note}")


def _run_prefill(settings: dict[str, Any], drawn: dict[str, Any], *, as_json: bool) -> None:
    from demur.cli.progress import shown_stages
    from demur.core.identity import Decoding
    from demur.jobs.stress_prefill import PREFILL_TOKENS, PrefillConfig, stress_prefill

    drawn["max_tokens"] = drawn["max_tokens"] or PREFILL_TOKENS
    config = PrefillConfig(**settings, decoding=Decoding(**drawn))
    with shown_stages() as say:
        findings = stress_prefill(config, say=say)
    if as_json:
        typer.echo(json.dumps(findings.model_dump(mode="json")))
    else:
        print_prefill(findings)
    typer.echo(f"report: {config.out / 'report.html'}", err=as_json)


def print_prefill(findings: "PrefillFindings") -> None:
    """Print refusal and false interruption against the number of forced tokens."""
    from demur.cli.tables import percent, print_table

    benign = {point.forced: point for point in findings.benign.points} if findings.benign else {}
    rows = []
    for point in findings.wrong.points:
        other = benign.get(point.forced)
        rates = [point.refused, other.refused if other else None, point.phrase]
        shown = (f"{percent(r.estimate, r.low, r.high)} of {r.n}" if r else "-" for r in rates)
        rows.append([str(point.forced), *shown])
    print_table(
        f"forced prefixes on {findings.model}",
        [f"{findings.unit} forced", "declined", "interrupted", "refusal phrase"],
        rows,
        right=(0, 1, 2, 3),
    )
    for note in findings.notes:
        typer.echo(f"note: {note}")
