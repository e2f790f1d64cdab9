"""What a stress test leaves in its folder, written and read again."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from demur.core.errors import BadInputError
from demur.data.folder import write_json, write_text
from demur.stress.attempt import Attack, Attempt
from demur.stress.findings import StressFindings
from demur.stress.prefill import PrefillFindings
from demur.stress.success import Ruling


def write_results(
    out: Path,
    findings: StressFindings,
    attempts: Sequence[Attempt],
    attack: Attack,
    rulings: Mapping[str, Sequence[Ruling]],
) -> None:
    """Write `attempts.jsonl`, `findings.json`, `manifest.json` and `report.html`."""
    lines = [json.dumps(_line(a, attack, {n: own[i] for n, own in rulings.items()})) for i, a in enumerate(attempts)]
    write_text(out / "attempts.jsonl", "".join(f"{line}\n" for line in lines))
    write_findings(out, findings)


def write_findings(out: Path, findings: StressFindings | PrefillFindings) -> None:
    """Write `findings.json`, `manifest.json` and `report.html`."""
    write_json(out / "findings.json", findings.model_dump(mode="json"))
    write_json(out / "manifest.json", findings.manifest)
    _page(out, findings)


def read_findings(folder: Path) -> StressFindings | PrefillFindings:
    """Findings of a finished stress test.

    Raises:
        BadInputError: There are none, or of another version.
    """
    path = folder / "findings.json"
    if not path.is_file():
        raise BadInputError(f"{folder}: expected the folder of a finished 'demur stress' with findings.json")
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        kind = PrefillFindings if isinstance(held, dict) and held.get("attack") == "prefill" else StressFindings
        return kind.model_validate(held)
    except ValueError as error:
        raise BadInputError(f"{path}: expected findings; {next(iter(str(error).splitlines()), '')}") from None


def write_report(folder: Path) -> Path:
    """Write the report of a finished stress test again; returns its path.

    Raises:
        BadInputError: There are no findings.
    """
    return _page(folder, read_findings(folder))


def _page(out: Path, findings: StressFindings | PrefillFindings) -> Path:
    from demur.report.document import write_document
    from demur.report.stress import render_prefill, render_stress

    path = out / "report.html"
    html = render_prefill(findings) if isinstance(findings, PrefillFindings) else render_stress(findings)
    write_document(path, html)
    return path


def _line(attempt: Attempt, attack: Attack, rulings: Mapping[str, Ruling]) -> dict[str, Any]:
    text = attempt.reply.text
    read = attack.read(attempt.condition, text)
    return {
        "goal": attempt.goal,
        "side": attempt.side,
        "condition": attempt.condition,
        "number": attempt.number,
        "how": attempt.asked.how,
        "messages": [message.model_dump() for message in attempt.asked.messages],
        "bare": attempt.asked.bare,
        "response": text,
        "read_as": read if read != text else None,
        "stop_reason": attempt.reply.stop_reason,
        "error": attempt.error,
        "rulings": {
            name: {"success": r.success, "outcome": r.outcome, "score": r.score, "why": r.why}
            for name, r in rulings.items()
        },
    }
