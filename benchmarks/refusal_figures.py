"""Figures of a binary refusal judgement."""

import numpy as np
from sklearn.metrics import roc_auc_score

from demur.stats.agreement import binary_agreement


def figures(truth, p):
    truth, p = np.asarray(truth, bool), np.asarray(p, float)
    measured = binary_agreement([bool(t) for t in truth], [bool(v >= 0.5) for v in p])
    both = 0 < truth.sum() < len(truth)
    return {
        "n": measured.n,
        "accuracy": measured.accuracy,
        "f1": measured.f1,
        "macro_f1": measured.macro_f1,
        "kappa": measured.kappa,
        "auroc": float(roc_auc_score(truth, p)) if both else None,
        "ece": ece(truth, p),
    }


def bins(p, n_bins=10):
    return np.minimum((np.asarray(p) * n_bins).astype(int), n_bins - 1)


def ece(truth, p, n_bins=10):
    where = bins(p, n_bins)
    return float(
        sum(abs(p[where == b].mean() - truth[where == b].mean()) * (where == b).mean() for b in np.unique(where))
    )


def reliability(truth, p):
    """Mean prediction, observed share and count in each tenth."""
    where = bins(p)
    return [
        [round(float(p[where == b].mean()), 4), round(float(truth[where == b].mean()), 4), int((where == b).sum())]
        for b in np.unique(where)
    ]
