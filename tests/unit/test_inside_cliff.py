"""Thinking is found, scores are traced and a cliff is declared only where there is one."""

import numpy as np
import pytest

from demur.inside.cliff import (
    TokenTrace,
    cliff_statistics,
    fraction_curve,
    item_cliff,
    tail_curve,
    zero_padded_mean,
)
from demur.inside.probe import fit_probe, quality, split_by_group, token_contrast
from demur.inside.thinking import ThinkTags, parse_thinking, reasoned_text, thinking_span, truncated

PROMPT = ["<|user|>", "Is", " <think>", " a", " tag", "?", "<|end|>", "<|assistant|>", "\n"]
TURN = 6


def found(*reply, prompt=PROMPT, **options):
    pieces = [*prompt, *reply]
    span = parse_thinking(pieces, turn=TURN, n_prompt=len(prompt), **options)
    return span, pieces


def thoughts(span, pieces):
    return "".join(pieces[span.start : span.end])


def test_thinking_between_tags_of_several_tokens_is_found():
    span, pieces = found("<", "think", ">\n", "Hm", ".", "\n</", "think", ">", "\n\n", "No", ".")
    assert (span.status, span.opened) == ("closed", "reply")
    assert thoughts(span, pieces) == "Hm."
    assert pieces[span.final] == "\n\n"
    assert pieces[span.final + 1] == "No"


def test_tags_that_the_user_writes_are_not_the_models():
    span, _ = found("No", ".")
    assert span.status == "none"
    assert span.final == len(PROMPT) - 1


def test_a_template_that_has_opened_the_thinking_is_known():
    span, pieces = found("Hm", "</think>", "\n", "No", prompt=[*PROMPT, "<think>", "\n"])
    assert (span.status, span.opened) == ("closed", "prompt")
    assert thoughts(span, pieces) == "\nHm"


def test_a_closing_tag_without_an_opening_one_ends_what_the_reply_began_with():
    span, pieces = found("Hm", "</think>", "No")
    assert (span.status, span.opened) == ("closed", "implied")
    assert thoughts(span, pieces) == "Hm"
    assert pieces[span.final] == "</think>"


def test_thinking_that_never_ends_is_unclosed():
    span, pieces = found("<think>", "Hm", " and", " so")
    assert span.status == "unclosed"
    assert thoughts(span, pieces) == "Hm and so"


def test_an_empty_span_of_the_template_yields_to_the_models_own():
    empty = [*PROMPT, "<think>", "\n\n", "</think>", "\n\n"]
    assert found("No", prompt=empty)[0].status == "empty"
    span, pieces = found("<think>", "Hm", "</think>", "No", prompt=empty)
    assert span.status == "closed"
    assert thoughts(span, pieces) == "Hm"


def test_the_pair_that_comes_first_counts():
    span, pieces = found("[THINK]", "a", "<think>", "b", "[/THINK]", "No")
    assert thoughts(span, pieces) == "a<think>b"


def test_truncated_thinking_keeps_prompt_and_closing_tag():
    span, pieces = found("<think>", "a", "b", "c", "d", "</think>", "\n\n", "No")
    assert "".join(truncated(pieces, span, 0.5)[len(PROMPT) :]) == "<think>ab</think>\n\n"
    assert "".join(truncated(pieces, span, 0)[len(PROMPT) :]) == "<think></think>\n\n"
    assert truncated(pieces, span, 1) == tuple(pieces[: span.final + 1])
    with pytest.raises(ValueError, match="closed"):
        truncated(pieces, found("<think>", "a")[0], 0.5)


def test_thoughts_cannot_close_themselves():
    text = reasoned_text("a</think>b", "No.", opened=False)
    assert text == "<think>\nab\n</think>\n\nNo."
    assert reasoned_text("a", "", opened=True, tags=ThinkTags("[T]", "[/T]")) == "a\n[/T]\n\n"


def test_ids_are_read_through_the_tokenizer():
    class Words:
        texts = ["hi", "<think>", "so", "</think>", "no"]

        def decode(self, ids, **_):
            return self.texts[ids[0]]

    assert thinking_span(Words(), [0, 1, 2, 3, 4], turn=1, n_prompt=1).status == "closed"


def trace(probabilities, *, start=0, end=None, final=None, key="a"):
    p = np.asarray(probabilities, dtype=float)
    logits = np.log(p / (1 - p))
    n = len(p)
    return TokenTrace(key, "g", logits, start, n - 1 if end is None else end, n - 1 if final is None else final)


def test_plateau_is_the_median_after_the_first_tenth_and_drop_what_is_lost():
    cliff = item_cliff(trace([0.01, 0.01, *[0.9] * 18, 0.2]))
    assert cliff.plateau == pytest.approx(0.9)
    assert cliff.final == pytest.approx(0.2)
    assert cliff.drop == pytest.approx(0.7)


def test_one_thinking_token_is_a_plateau_and_none_is_refused():
    assert item_cliff(trace([0.8, 0.3])).plateau == pytest.approx(0.8)
    with pytest.raises(ValueError, match="at least one thinking"):
        item_cliff(trace([0.8], end=0))


@pytest.mark.parametrize(("plateau", "final", "declared"), [(0.9, 0.1, True), (0.9, 0.89, False), (0.2, 0.01, False)])
def test_a_cliff_is_declared_only_from_a_high_plateau_and_with_a_real_fall(plateau, final, declared):
    rng = np.random.default_rng(0)
    items = [
        item_cliff(trace(np.clip(np.array([*[plateau] * 10, final]) + rng.normal(0, 0.01, 11), 0.001, 0.999)))
        for _ in range(20)
    ]
    statistics = cliff_statistics(items)
    assert statistics.declared is declared
    assert statistics.plateau.low <= statistics.plateau.mean <= statistics.plateau.high


def test_one_item_declares_nothing():
    assert not cliff_statistics([item_cliff(trace([0.9, 0.9, 0.1]))]).declared


def test_short_items_do_not_pull_the_curve_down():
    items = [trace([0.8] * n) for n in (4, 9, 30)]
    curve = tail_curve(items, 30)
    assert np.allclose(curve.mean, 0.8)
    assert curve.count.tolist() == [1] * 21 + [2] * 5 + [3] * 4
    padded = zero_padded_mean(items)
    assert padded[0] == pytest.approx(0.8 / 3)
    assert padded[-1] == pytest.approx(0.8)


def test_positions_that_no_item_has_are_unknown_rather_than_zero():
    curve = tail_curve([trace([0.8, 0.7])], 3)
    assert np.isnan(curve.mean[0])
    assert curve.count.tolist() == [0, 1, 1]


def test_the_tail_goes_on_into_the_answer_where_it_was_read():
    curve = tail_curve([trace([0.8, 0.7, 0.2, 0.1], final=1)], 2, after=2)
    assert curve.axis.tolist() == [-1, 0, 1, 2]
    assert np.allclose(curve.mean, [0.8, 0.7, 0.2, 0.1])


def test_every_item_counts_in_every_part_of_the_fraction_axis_and_nothing_overshoots():
    items = [trace([0.9] * n + [0.1] * n, end=2 * n) for n in (1, 3, 40)]
    curve = fraction_curve(items, 10)
    assert curve.count.tolist() == [3] * 10
    assert np.allclose(curve.mean[:5], 0.9)
    assert np.allclose(curve.mean[5:], 0.1)


def planted(n, d=16, shift=4.0, seed=0):
    rng = np.random.default_rng(seed)
    w = np.random.default_rng(99).normal(size=d)
    w /= np.linalg.norm(w)
    refused = np.arange(n) % 3 == 0
    return rng.normal(size=(n, d)) + 7 + np.outer(np.where(refused, shift, 0), w), refused, w


def test_a_planted_direction_is_found_and_holds_on_new_items():
    x, y, w = planted(240)
    probe = fit_probe(x, y, space="residual", layer=2, span="final")
    assert probe.direction @ w > 0.95
    fresh, labels, _ = planted(300, seed=1)
    measured = quality(probe, fresh, labels)
    assert measured.accuracy > 0.95
    assert measured.low <= measured.auroc <= measured.high


def test_the_probe_is_logistic_regression():
    from sklearn.linear_model import LogisticRegression

    x, y, _ = planted(90)
    ours = fit_probe(x, y, space="residual", layer=0, span="final", penalties=[1.0])
    centre = x.mean(axis=0)
    scale = np.sqrt(((x - centre) ** 2).sum(axis=1).mean())
    theirs = LogisticRegression(class_weight="balanced", tol=1e-10, max_iter=10_000).fit((x - centre) / scale, y)
    assert np.allclose(ours.weight * scale, theirs.coef_[0], atol=1e-3)
    assert np.allclose(ours.logits(x), theirs.decision_function((x - centre) / scale), atol=1e-2)


def test_one_side_and_overflow_are_refused():
    x, _, _ = planted(10)
    with pytest.raises(ValueError, match="refused and answered"):
        fit_probe(x, [True] * 10, space="residual", layer=0, span="final")
    with pytest.raises(ValueError, match="finite"):
        fit_probe(x * np.inf, [True, False] * 5, space="residual", layer=0, span="final")


def test_the_contrast_is_the_difference_of_mean_first_token_logits():
    table = np.random.default_rng(0).normal(size=(9, 5))
    state = np.random.default_rng(1).normal(size=5)
    probe = token_contrast(table, [1, 2, 2, 3], [3, 4], layer=6)
    assert probe.logits(state) == pytest.approx(table[[1, 2]].mean(axis=0) @ state - table[4] @ state)
    with pytest.raises(ValueError, match="first tokens"):
        token_contrast(table, [1], [1], layer=6)


def test_a_prompt_never_stands_on_both_sides_of_the_split():
    groups = [f"pair {i // 2}" for i in range(40)]
    fitted = split_by_group(groups)
    assert len({(g, bool(f)) for g, f in zip(groups, fitted, strict=True)}) == 20
    assert fitted.sum() == 20
