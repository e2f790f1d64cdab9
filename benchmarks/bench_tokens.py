"""Refusal tokens on prompts they were not trained on: python benchmarks/bench_tokens.py ADAPTER [ADAPTER ...].

One adapter for each seed. Signal: AUROC on the core suite beside TF-IDF trained on the same rows and the untrained
model. Control: refusal and over-refusal as the threshold moves, spill-over when one category is suppressed, the emitted
token against the judged reply. General ability: perplexity on ordinary text, agreement with the base on contrast prompts.
"""

import argparse
import asyncio
import sys
from pathlib import Path

import numpy as np
from record import record

from demur.control.decision import decide
from demur.core.chat import ChatRequest
from demur.core.exchange import Message
from demur.core.policy import Policy, Rule
from demur.core.signal import stacked
from demur.jobs.following import forced_replies, outcomes
from demur.jobs.signal import score_prompts
from demur.models.controlled import controlled_model
from demur.stats.ranking import auroc, auroc_interval
from demur.suites import load_suite
from demur.suites.training import load_labelled

CATEGORIES = ("incomplete", "indeterminate", "unsupported", "humanizing", "safety")
N_REPLIES = 200


def by_category(scores, rows):
    positive = [row.expected == "refuse" for row in rows]
    found = {"all": auroc(scores, positive), "interval": auroc_interval(scores, positive)}
    for category in CATEGORIES:
        kept = [i for i, row in enumerate(rows) if row.category == category]
        found[category] = auroc([scores[i] for i in kept], [positive[i] for i in kept])
    return found


def tfidf(rows, prompts):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        LogisticRegressionCV(
            Cs=[1, 3, 10, 30], cv=5, scoring="roc_auc", max_iter=2000, l1_ratios=(0,), use_legacy_attributes=False
        ),
    )
    model.fit([r.prompt for r in rows], [r.expected == "refuse" for r in rows])
    return model.predict_proba(prompts)[:, 1].tolist()


def operating(scores, rows, source):
    """Refusal and over-refusal as one threshold on every category's posterior moves."""
    refuse = np.array([row.expected == "refuse" for row in rows])
    curve = []
    for threshold in np.linspace(0.02, 0.98, 49):
        policy = Policy(name="sweep", source=source, kind="sum", threshold=float(threshold))
        refused = decide(policy, scores).refused
        curve.append((round(float(threshold), 3), float(refused[refuse].mean()), float(refused[~refuse].mean())))
    return curve


def spill_over(scores, rows, source):
    """Share of each category's should-refuse prompts declined when one category is switched off."""
    table = {}
    for off in ("none", *CATEGORIES):
        rules = {} if off == "none" else {off: Rule(action="answer")}
        refused = decide(Policy(name="x", source=source, kind="sum", threshold=0.5, rules=rules), scores).refused
        table[off] = {
            c: float(refused[[i for i, r in enumerate(rows) if r.category == c and r.expected == "refuse"]].mean())
            for c in CATEGORIES
        }
    return table


async def plain_replies(model, prompts):
    """Replies of a model left to itself."""
    from demur.models import build_model, parse_model

    requests = [ChatRequest(messages=(Message(role="user", text=p),), max_tokens=64, temperature=0.0) for p in prompts]
    plain = build_model(parse_model(model), identity=model)
    found = await asyncio.gather(*(plain.complete(request) for request in requests))
    plain.close()
    return [reply.text for reply in found]


def judged(prompts, texts):
    return [v.outcome for v in outcomes(prompts, texts)]


def consistency(model, scores, rows):
    """The emitted token against the judged reply, and what forcing the other token does."""
    drawn = np.random.default_rng(0).choice(len(rows), N_REPLIES, replace=False)
    prompts = [rows[i].prompt for i in drawn]
    own = scores.p()[drawn].argmax(axis=1)
    respond = len(CATEGORIES)
    other = np.where(own == respond, scores.p()[drawn, :-1].argmax(axis=1), respond)
    said = judged(prompts, forced_replies(controlled_model(model), prompts, own.tolist(), max_tokens=64))
    flipped = judged(prompts, forced_replies(controlled_model(model), prompts, other.tolist(), max_tokens=64))
    table = {"refusal token": {}, "respond token": {}}
    for token, outcome in zip(own, said, strict=True):
        row = table["respond token" if token == respond else "refusal token"]
        row[outcome] = row.get(outcome, 0) + 1
    refused = [o in ("refused", "partial") for o in said]
    after = [o in ("refused", "partial") for o in flipped]
    return {
        "n": len(prompts),
        "judged reply by emitted token": table,
        "share refused": {
            "own token": float(np.mean(refused)),
            "refusal forced where respond was": float(
                np.mean([a for a, t in zip(after, own, strict=True) if t == respond])
            ),
            "respond forced where refusal was": float(
                np.mean([a for a, t in zip(after, own, strict=True) if t != respond])
            ),
            "own refusal token": float(np.mean([a for a, t in zip(refused, own, strict=True) if t != respond])),
            "own respond token": float(np.mean([a for a, t in zip(refused, own, strict=True) if t == respond])),
        },
    }


def ordinary_text(n_characters=24_000):
    """Prose nobody here wrote or trained on: docstrings of scikit-learn."""
    import sklearn.ensemble
    import sklearn.linear_model

    texts = [
        " ".join((getattr(module, name).__doc__ or "").split("Parameters\n")[0].split())
        for module in (sklearn.linear_model, sklearn.ensemble)
        for name in module.__all__
    ]
    return "\n".join(text for text in texts if len(text) > 200)[:n_characters]


def perplexity(model):
    """Perplexity of ordinary text, in windows of 256 tokens; the adapter attached where there is one."""
    import torch

    from demur.models import parse_model
    from demur.models.adapter import read_adapter
    from demur.models.merging import base_folder, load_model, load_tokenizer, merge

    spec = parse_model(model)
    base = base_folder(spec)
    loaded = merge(read_adapter(Path(spec.adapter)), base).model if spec.adapter else load_model(base, dtype="float32")
    ids = torch.tensor(load_tokenizer(base)(ordinary_text())["input_ids"])
    windows = ids[: len(ids) // 256 * 256].view(-1, 256)
    with torch.inference_mode():
        losses = [float(loaded.eval()(input_ids=window, labels=window).loss) for window in windows.split(4)]
    return float(np.exp(np.mean(losses))), int(windows.numel())


def ability(base, model, rows):
    """What training cost: perplexity, and the verdicts on 200 contrast prompts beside the base model's."""
    contrast = [row.prompt for row in rows if row.expected == "comply"][:N_REPLIES]
    before, after = (judged(contrast, asyncio.run(plain_replies(m, contrast))) for m in (base, model))
    declined = [np.mean([o in ("refused", "partial") for o in found]) for found in (before, after)]
    (ppl_before, n), (ppl_after, _) = perplexity(base), perplexity(model)
    return {
        "perplexity": {"before": ppl_before, "after": ppl_after, "ratio": ppl_after / ppl_before, "n_tokens": n},
        "contrast verdicts that agree with the base's": float(
            np.mean([a == b for a, b in zip(before, after, strict=True)])
        ),
        "over-refusal in text": {"before": float(declined[0]), "after": float(declined[1])},
        "n_contrast": len(contrast),
    }


def untrained(model, prompts):
    """Posterior of the tokens before training: rows made from related words, base weights."""
    from demur.jobs.train_tokens import untrained_p_any

    return untrained_p_any(model, prompts)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("adapter", nargs="+", help="folders of adapters, one for each seed")
    parser.add_argument("--base", default="smollm2")
    parser.add_argument("--quick", action="store_true", help="signal only, no replies")
    given = parser.parse_args()
    suite = list(load_suite("core").rows)
    prompts = [row.prompt for row in suite]
    training = load_labelled("train")
    result = {"n_core": len(suite), "n_training": len(training), "tfidf": by_category(tfidf(training, prompts), suite)}
    result["seeds"], all_scores = [], []
    for folder in given.adapter:
        source, scores = score_prompts(f"{given.base}+{folder}", prompts)
        all_scores.append(scores)
        result["seeds"].append(
            {
                "adapter": Path(folder).name,
                "auroc": by_category(scores.p_any.tolist(), suite),
                "mass": float(scores.mass.mean()),
            }
        )
        print(folder, result["seeds"][-1], file=sys.stderr, flush=True)
    first, model = all_scores[0], f"{given.base}+{given.adapter[0]}"
    source, _ = score_prompts(model, prompts[:1])
    result["mean auroc"] = float(np.mean([s["auroc"]["all"] for s in result["seeds"]]))
    result["operating curve"], result["spill-over"] = operating(first, suite, source), spill_over(first, suite, source)
    result["untrained"] = by_category(untrained(given.base, prompts), suite)
    assert len(stacked(all_scores)) == len(suite) * len(all_scores)
    if not given.quick:
        result["consistency"] = consistency(model, first, suite)
        result["ability"] = ability(given.base, model, suite)
    record("tokens", result, packages=("torch", "transformers", "peft", "trl", "xllamacpp", "scikit-learn"))


if __name__ == "__main__":
    main()
