"""What can be read: a shortlist of rules against an L1 logistic regression of equal reading effort, and ten rules.

    python benchmarks/tsetlin_reading.py            # prints the comparison; writes the ten rules into the docs

Reading effort is counted in literals (words that must be there or must not); a word of the regression is one literal.
Both are chosen and fitted on the training rows and measured on the 512 others. The ten rules are chosen on the training
rows too, from a machine without absences; docs/explanation/tsetlin.md gets them with support and precision on both.
"""

import statistics
import warnings
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC
from tsetlin_corpora import refusals

PAGE = Path(__file__).parents[1] / "docs" / "explanation" / "tsetlin.md"
START, END = "<!-- ten rules: python benchmarks/tsetlin_reading.py -->", "<!-- end of the ten rules -->"
EFFORTS = (10, 20, 30, 60, 100)
SEEDS = 5
LEAST = 0.8  # share of rows a rule must be right about, at the lower end of its interval


def words_of_regression(corpus, effort):
    """Accuracy with at most `effort` words, chosen by an L1 penalty and fitted again without it."""
    X, best = corpus.train.astype(np.float64), None
    for penalty in np.geomspace(1e-3, 1.0, 60):
        chooser = LinearSVC(C=penalty, penalty="l1", dual=False, max_iter=5000, random_state=0).fit(X, corpus.train_y)
        chosen = np.flatnonzero(np.abs(chooser.coef_[0]) > 1e-6)
        if len(chosen) > effort:
            break
        best = chosen if len(chosen) else best
    model = LogisticRegression(max_iter=1000).fit(X[:, best], corpus.train_y)
    return len(best), 100 * model.score(corpus.test[:, best].astype(np.float64), corpus.test_y)


def literals(rules):
    return sum(len(rule.present) + len(rule.absent) for rule in rules)


def machines(corpus, *, negated):
    from demur.tsetlin import TsetlinMachineClassifier

    return [
        TsetlinMachineClassifier(literal_budget=4, negated_literals=negated, random_state=seed).fit(
            corpus.train, corpus.train_y, feature_names=corpus.names
        )
        for seed in range(SEEDS)
    ]


def shortlists(corpus, fitted, effort):
    short = [machine.shortlist(corpus.train, corpus.train_y, n_literals=effort) for machine in fitted]
    scores = [100 * machine.score(corpus.test, corpus.test_y) for machine in short]
    return {
        "rules": round(statistics.mean(len(machine.rules_) for machine in short), 1),
        "literals": round(statistics.mean(literals(machine.rules_) for machine in short), 1),
        "accuracy": round(statistics.mean(scores), 2),
        "spread": round(statistics.stdev(scores), 2),
    }


def fires_on(rule, bits, column):
    fires = bits[:, [column[name] for name in rule.present]].all(axis=1)
    return fires & ~bits[:, [column[name] for name in rule.absent]].any(axis=1)


def sure_share(right, n):
    """Lower end of the Wilson interval: the share that the rule is right about at least."""
    share, z = right / n, 1.96
    return (share + z * z / 2 / n - z * np.sqrt(share * (1 - share) / n + z * z / 4 / n / n)) / (1 + z * z / n)


def telling(rules, corpus, column, *, n_rules, least):
    """Rules one can rely on, one after the other the one that is right about most rows no other is right about."""
    bits, chosen = corpus.train.toarray() > 0, []
    fires = {rule: fires_on(rule, bits, column) for rule in rules}
    right = {rule: fires[rule] & (corpus.train_y == rule.label) for rule in rules}
    sure = [r for r in rules if fires[r].any() and sure_share(right[r].sum(), fires[r].sum()) >= least]
    left = np.ones(len(bits), bool)
    while sure and len(chosen) < n_rules:
        best = max(sure, key=lambda rule: (right[rule] & left).sum())
        if not (right[best] & left).any():
            break
        chosen.append(best)
        left &= ~right[best]
    return chosen


def ten_rules(corpus, machine):
    """Lines of a table, five rules for each class, with support and precision also on rows that took no part."""
    rules = machine.prune(corpus.train, corpus.train_y).rules_
    column = {name: k for k, name in enumerate(corpus.names)}
    bits, lines = corpus.test.toarray() > 0, []
    for label, said in ((1, "refused"), (0, "complied")):
        own = [rule for rule in rules if rule.label == label]
        for rule in telling(own, corpus, column, n_rules=5, least=LEAST):
            fires = fires_on(rule, bits, column)
            right = f"{(corpus.test_y[fires] == label).mean():.0%}" if fires.any() else "-"
            asks = " and ".join([f"*{name}*" for name in rule.present] + [f"not *{name}*" for name in rule.absent])
            seen = f"{rule.support:,} | {rule.precision:.0%}"
            lines.append(f"| if {asks} then **{said}** | {seen} | {int(fires.sum()):,} | {right} |")
    return lines


def write_rules(lines):
    table = "\n".join(
        [
            "| rule | fires on, of 1,194 learned | right | fires on, of 512 unseen | right |",
            "| --- | --- | --- | --- | --- |",
            *lines,
        ]
    )
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(START)
    PAGE.write_text(f"{before}{START}\n{table}\n{END}{rest.split(END)[1]}", encoding="utf-8")


def reading():
    corpus = refusals()
    if isinstance(corpus, str):
        print(f"rules: skipped: {corpus}")
        return {"skipped": corpus}
    print(f"\nrules to read; {corpus.about}")
    any_rule, present_only = machines(corpus, negated=True), machines(corpus, negated=False)
    result = {}
    for effort in EFFORTS:
        words, accuracy = words_of_regression(corpus, effort)
        row = {
            "l1_regression": {"words": words, "accuracy": round(accuracy, 2)},
            "rules": shortlists(corpus, any_rule, effort),
            "rules_without_absence": shortlists(corpus, present_only, effort),
        }
        result[str(effort)] = row
        a, b = row["rules"], row["rules_without_absence"]
        print(
            f"at most {effort:>3} literals: L1 regression {accuracy:5.1f} ({words} words); "
            f"rules {a['accuracy']:5.1f} +- {a['spread']:.1f} ({a['rules']:.0f} rules, {a['literals']:.0f} literals); "
            f"rules of words present {b['accuracy']:5.1f} +- {b['spread']:.1f} ({b['rules']:.0f}, {b['literals']:.0f})",
            flush=True,
        )
    whole = {
        name: round(statistics.mean(100 * m.score(corpus.test, corpus.test_y) for m in fitted), 2)
        for name, fitted in (("rules", any_rule), ("rules_without_absence", present_only))
    }
    result["all_rules"] = whole
    print(f"with all their rules: {whole}")
    lines = ten_rules(corpus, present_only[0])
    print("\n".join(lines))
    write_rules(lines)
    return result


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    reading()
