"""Texts as bits for the Tsetlin benchmark: presence of single words and pairs, the best by chi-square."""

import ast
import hashlib
import importlib.util
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.feature_selection import SelectKBest, chi2

SHARED = Path(__file__).parents[2] / "shared" / "data"
PACKAGES = ("numpy", "scipy", "sklearn")


@dataclass
class Corpus:
    """Bits and labels to learn from and to test on, and what the bits are called."""

    about: str
    train: sparse.csr_matrix
    train_y: np.ndarray
    test: sparse.csr_matrix
    test_y: np.ndarray
    names: list[str]


def as_bits(title, texts, labels, unseen, truth, n_features=2000, min_df=2):
    """Vocabulary and choice of features from the training texts only."""
    words = CountVectorizer(binary=True, ngram_range=(1, 2), min_df=min_df)
    counts = words.fit_transform(texts)
    best = SelectKBest(chi2, k=min(n_features, counts.shape[1])).fit(counts, labels)
    train, test = best.transform(counts).tocsr(), best.transform(words.transform(unseen)).tocsr()
    names = list(words.get_feature_names_out()[best.get_support()])
    density = train.nnz / train.shape[0] / train.shape[1]
    about = (
        f"{title}: {train.shape[0]:,} rows to learn, {test.shape[0]:,} to test, {train.shape[1]:,} bits, "
        f"{density:.1%} set, {len(np.unique(labels))} classes, majority {np.bincount(truth).max() / len(truth):.1%}"
    )
    return Corpus(about, train, np.asarray(labels), test, np.asarray(truth), names)


def read_rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def refusals():
    path = SHARED / "chatgpt_refusals.jsonl"
    if not path.exists():
        return f"{path.name} is not in ../shared/data"
    parts = {True: ([], []), False: ([], [])}
    for row in read_rows(path):
        texts, labels = parts[row["split"] == "train"]
        texts.append(row["response"])
        labels.append(int(row["label"] != "compliance"))
    return as_bits("replies of gpt-3.5-turbo, refused or complied", *in_order(parts))


def xstest():
    path = SHARED / "xstest_v2.jsonl"
    if not path.exists():
        return f"{path.name} is not in ../shared/data"
    kinds = ("compliance", "partial", "refusal")
    parts = {True: ([], []), False: ([], [])}
    for row in read_rows(path):
        texts, labels = parts[hashlib.sha256(row["prompt"].encode()).digest()[0] >= 77]
        texts.append(row["response"])
        labels.append(kinds.index(row["label"]))
    return as_bits("XSTest v2 replies: complied, partial, refused; split by prompt", *in_order(parts))


def docstrings():
    parts = {True: ([], []), False: ([], [])}
    for label, package in enumerate(PACKAGES):
        root = Path(importlib.util.find_spec(package).origin).parent
        seen = set()
        for path in sorted(root.rglob("*.py")):
            if "tests" in path.parts:
                continue
            here = hashlib.sha256(f"{package}/{path.relative_to(root)}".encode()).digest()[0] >= 64
            for text in documented(path):
                if len(text) >= 200 and text not in seen:
                    seen.add(text)
                    parts[here][0].append(text)
                    parts[here][1].append(label)
    return as_bits("docstrings, which package; split by file", *in_order(parts), n_features=3000, min_df=5)


def documented(path):
    """Docstrings of a file, without examples and without the packages' names."""
    try:
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    except (SyntaxError, UnicodeDecodeError):
        return
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
            lines = (ast.get_docstring(node) or "").splitlines()
            prose = "\n".join(line for line in lines if not line.lstrip().startswith((">>>", "...")))
            yield re.sub(r"(?i)numpy|scipy|scikit-?learn|sklearn|\bnp\b|\bsp\b", " ", prose)


def imdb_shaped():
    """24,000 rows of 5,000 bits, 1.7 % set, word frequencies after Zipf, classes told apart by many weak words."""
    rng = np.random.default_rng(0)
    n_rows, n_bits = 25_000, 5000
    common = 1 / np.arange(3, n_bits + 3) ** 0.85
    common = np.minimum(common / common.sum() * 0.017 * n_bits, 0.7)
    labels = rng.integers(2, size=n_rows)
    effect = rng.normal(0, 0.35, n_bits)
    chance = [np.clip(common * np.exp(effect * side), 0, 0.9) for side in (-0.5, 0.5)]
    rows = [np.flatnonzero(rng.random(n_bits) < chance[label] * np.exp(rng.normal(0, 0.3))) for label in labels]
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    bits = sparse.csr_matrix((np.ones(indptr[-1], np.uint8), np.concatenate(rows), indptr), shape=(n_rows, n_bits))
    labels = np.where(rng.random(n_rows) < 0.1, 1 - labels, labels)
    about = f"made up in the shape of IMDb, for time only: 24,000 rows to learn, 5,000 bits, {bits.nnz / n_rows / n_bits:.1%} set"
    return Corpus(
        about, bits[:24_000], labels[:24_000], bits[24_000:], labels[24_000:], [f"w{k}" for k in range(n_bits)]
    )


def own(path):
    parts = {True: ([], []), False: ([], [])}
    rows = read_rows(path)
    kinds = sorted({row["label"] for row in rows})
    for row in rows:
        texts, labels = parts[row["split"] == "train"]
        texts.append(row["text"])
        labels.append(kinds.index(row["label"]))
    return as_bits(path.name, *in_order(parts), n_features=5000, min_df=10)


def in_order(parts):
    """Texts and labels to learn from, then those to test on."""
    (texts, labels), (unseen, truth) = parts[True], parts[False]
    return texts, np.array(labels), unseen, np.array(truth)


CORPORA = {"refusals": refusals, "xstest": xstest, "docstrings": docstrings, "imdb-shaped": imdb_shaped}


def load_corpus(name):
    """A corpus, or a line that says why there is none."""
    return CORPORA[name]() if name in CORPORA else own(name)


def save_corpus(corpus, path):
    arrays = {"train_y": corpus.train_y, "test_y": corpus.test_y}
    for part in ("train", "test"):
        matrix = getattr(corpus, part)
        matrix.sort_indices()
        arrays |= {f"{part}_indices": matrix.indices, f"{part}_indptr": matrix.indptr, f"{part}_shape": matrix.shape}
    np.savez(path, **arrays)
    return path
