"""Train the classifier of prompts by category on our own training set, test it on our core suite, ship it.

python benchmarks/train_prompt_categories.py
"""

import json

import numpy as np
from record import record
from refusal_data import ROOT
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import classification_report

from demur.classify.categories import SURE, save_categories
from demur.classify.features import N_BUCKETS, buckets, tokens
from demur.classify.fitting import hashed_matrix
from demur.suites import load_suite
from demur.suites.training import load_training


def kind(row):
    return "ordinary" if row.expected == "comply" else row.category


def main():
    train, test = load_training(), load_suite("core").rows
    x, y = (hashed_matrix([buckets(tokens(r.prompt)) for r in train], N_BUCKETS), [kind(r) for r in train])
    x_test, y_test = (
        hashed_matrix([buckets(tokens(r.prompt)) for r in test], N_BUCKETS),
        np.array([kind(r) for r in test]),
    )
    fitted = LogisticRegression(C=10.0, max_iter=300).fit(x, y)
    p = fitted.predict_proba(x_test)
    said, sure = fitted.classes_[p.argmax(axis=1)], p.max(axis=1) >= SURE
    result = {
        "n_train": len(y), "n_test": len(y_test), "accuracy": float((said == y_test).mean()),
        "says_something": float(sure.mean()), "accuracy_where_it_does": float((said == y_test)[sure].mean()),
        "by_category": classification_report(y_test, said, output_dict=True, zero_division=0),
    }  # fmt: skip
    print(json.dumps({k: v for k, v in result.items() if k != "by_category"}, indent=1))
    record("prompt_categories", result, ("scikit-learn",))
    data = save_categories(fitted.classes_, fitted.coef_.T, fitted.intercept_)
    (ROOT / "src" / "demur" / "classify" / "categories.npz").write_bytes(data)
    print(f"categories.npz {len(data) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
