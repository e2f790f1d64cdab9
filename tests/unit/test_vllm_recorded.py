"""What transformers' logits decided once, an engine's rows decide again; see tests/engine_recording.py."""

import json
from pathlib import Path

import numpy as np
import pytest

from demur.core.policy import Policy
from demur.serve.vllm_rows import ControlColumns, RowOrder, decided, force, never_emit, read_scores

torch = pytest.importorskip("torch")
RECORDED = json.loads((Path(__file__).parents[1] / "data" / "control_logits.json").read_text())
COLUMNS = ControlColumns(tuple(RECORDED["categories"]), tuple(RECORDED["ids"]))
POLICIES = [Policy.model_validate(policy) for policy in RECORDED["policies"]]
LOGITS = torch.tensor([row["logits"] for row in RECORDED["rows"]], dtype=torch.float32)


def test_scores_are_those_recorded():
    scores, readable = read_scores(LOGITS, COLUMNS)
    assert readable.all()
    for key, found in {"control_logits": scores.logits, "log_total": scores.log_total, "top": scores.top}.items():
        np.testing.assert_allclose(found, [row[key] for row in RECORDED["rows"]], atol=2e-5)


def test_every_policy_on_every_row_of_one_batch_decides_as_recorded():
    pairs = [(i, policy) for policy in POLICIES for i in range(len(LOGITS))]
    order = np.random.default_rng(0).permutation(len(pairs))
    pairs = [pairs[k] for k in order]
    batch = LOGITS[[i for i, _ in pairs]]
    found = decided([RowOrder(policy) for _, policy in pairs], *read_scores(batch, COLUMNS))
    expected = [RECORDED["decisions"][policy.name][i]["token"] for i, policy in pairs]
    assert found.tolist() == expected
    never_emit(batch, None, COLUMNS)
    force(batch, range(len(pairs)), found, COLUMNS)
    for row, column in zip(batch, expected, strict=True):
        possible = torch.isfinite(row).nonzero().flatten().tolist()
        ordinary = [i for i in range(len(row)) if i not in COLUMNS.ids]
        assert possible == ([COLUMNS.ids[column]] if column >= 0 else ordinary)


def test_the_recording_has_every_kind_and_view():
    assert {p.kind for p in POLICIES} == {"two_way", "sum", "bias", "category_set", "per_category"}
    assert {p.view for p in POLICIES} == {"posterior", "full"}
    tokens = {d["token"] for rows in RECORDED["decisions"].values() for d in rows}
    assert len(COLUMNS.categories) in tokens
    assert len(tokens) >= 3
