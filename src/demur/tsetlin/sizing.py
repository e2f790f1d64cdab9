"""Settings by size of the data, for those who do not want to learn what T and s are.

Chosen on small text tasks (1,200 to 5,000 rows, 2,000 to 3,000 features). They are a start: `tune` looks around them.
"""

MEMORY = 256 * 2**20  # bytes of counters, one per clause and literal


def clauses_for(n_rows: int, n_features: int, n_classes: int) -> int:
    """Clauses in all: one per row up to 1,000 for two classes, half that per class for more."""
    wanted = max(100, min(n_rows, 1000)) if n_classes == 2 else max(50, min(n_rows // 2, 500)) * n_classes
    return max(2 * n_classes, min(wanted, MEMORY // max(1, 2 * n_features)))


def threshold_for(n_clauses: int, n_classes: int, *, negated_literals: bool) -> float:
    """Votes at which a row stops teaching: two per clause of a bank, or half a vote if only presence may be asked for.

    Weights grow to some tens, so a pattern soon gathers that many.
    """
    return (2.0 if negated_literals else 0.5) * n_clauses / (1 if n_classes == 2 else n_classes)


def specificity_for(*, negated_literals: bool) -> float:
    """2, or 30 if only presence may be asked for: most words are absent from most texts, so absence is kept easily."""
    return 2.0 if negated_literals else 30.0


def epochs_for(n_rows: int) -> int:
    """Passes over the rows."""
    return 20 if n_rows < 20_000 else 10
