"""What is known of the embedded model: it never refuses by the published metric, and one coordinate is enormous."""

import pytest

pytest.importorskip("torch")

from demur.activations.spans import tokenized
from demur.inside.loudness import measure_peaks
from demur.inside.phrases import refusal_metric
from demur.inside.trial import next_logits
from demur.jobs.subject import cleaner, subject_of
from demur.suites.training import load_short_prompts

pytestmark = pytest.mark.model


def test_the_embedded_model_passes_no_harmful_prompt_through_the_published_filter_and_has_its_sink():
    subject = subject_of("smollm2")
    rows = [r for r in load_short_prompts("calibration") if r.category == "safety" and r.expected == "refuse"][:16]
    clean = cleaner(subject.tokenizer)
    prompts = [tokenized(subject.tokenizer, row.prompt, clean=clean) for row in rows]
    openings = [subject.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("I", "Sorry", "As")]
    assert (refusal_metric(next_logits(subject, prompts), openings) < 0).all()
    peaks = measure_peaks(subject, prompts[:2])
    assert peaks.peak[12].argmax() == 507
    assert peaks.peak[12, 507] == pytest.approx(24_926, rel=0.01)
    assert peaks.peak_rest[12].max() < 1_000
