"""Fit a judge to own labels, on top of the shipped one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np

from demur.core.errors import BadInputError, MissingExtraError
from demur.data.labelled import read_labelled
from demur.judges import FITTED_FILE
from demur.judges.cards import JudgeCard, make_card, save_card
from demur.stats.agreement import BinaryAgreement, binary_agreement


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedJudge:
    """What came of it: the folder, agreement with the labels before and after (held out), and the judge's card."""

    folder: Path
    before: BinaryAgreement
    after: BinaryAgreement
    uses_words: bool
    card: JudgeCard
    n_left_out: int


def fit_judge(file: Path, out: Path, *, phrases: Sequence[str] = (), skip_bad: bool = False) -> FittedJudge:
    """Recalibrate the shipped judge on labelled replies and write it to a folder that `--judge` takes.

    Args:
        file: Rows with prompt, response and label.
        out: Folder of the new judge; its name becomes the judge's.
        phrases: Phrases by which the user's model is known to decline.
        skip_bad: Leave malformed rows out.

    Raises:
        BadInputError: A malformed row, too few labels, or a folder that holds something else.
    """
    try:
        from demur.classify.adapt import adapt
    except ImportError:
        raise MissingExtraError("fitting a judge", extra="classify") from None
    from demur.classify.model import load_model, save_model

    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / FITTED_FILE).is_file())):
        raise BadInputError(f"{out}: expected a new folder or one of a fitted judge; choose another --out")
    rows, n_left_out = read_labelled(file, skip_bad=skip_bad)
    refused = np.array([row.refused for row in rows], dtype=bool)
    shipped = replace(load_model(), own_phrases=tuple(p.casefold() for p in phrases))
    try:
        adapted = adapt(shipped, [r.exchange.prompt for r in rows], [r.exchange.response for r in rows], refused)
    except ValueError as error:
        raise BadInputError(f"{file}: {error}; label some more replies") from None
    digest = sha256(file.read_bytes()).hexdigest()[:8]
    model = replace(
        adapted.model,
        version=f"{shipped.version}+{digest}",
        about=f"{len(rows)} own labels on top of {shipped.version}",
    )
    before, after = (
        binary_agreement(refused.tolist(), (p >= 0.5).tolist()) for p in (adapted.p_before, adapted.p_after)
    )
    save_model(model, out / FITTED_FILE)
    card = make_card(
        f"{out.name}@{model.version}", f"{file.name} (sha256 {digest}), held out", after, {}, n_left_out=n_left_out
    )
    save_card(card)
    return FittedJudge(
        folder=out, before=before, after=after, uses_words=adapted.uses_words, card=card, n_left_out=n_left_out
    )
