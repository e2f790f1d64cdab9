import math
import resource
import warnings

import numpy as np
import pytest

pytest.importorskip("peft")

import torch

from demur.core.errors import BackendError, BadInputError
from demur.models.merging import load_model, load_tokenizer
from demur.train.adapters import AdapterSettings, attach
from demur.train.batches import packed_pass, padded_pass
from demur.train.derta import DertaSettings, prefix_row, refusal_token_id, rto_row
from demur.train.row_loop import packs, position_losses
from demur.train.row_trainer import TrainerSettings, clear_checkpoints, train_rows
from demur.train.rows import IGNORED, Example, LabelledRow, encoder_of
from demur.train.segments import attending_by_segment
from demur.train.supervised import control_row, control_weights, supervised_row
from tests.engine_models import make_base

torch.set_num_threads(1)
EXAMPLES = [
    Example("What is the capital of France?", "Paris is the capital.", unwanted="Tell me a story about a small boat."),
    Example("How do I bake bread?", "I cannot help with that, sorry.", unwanted="Mix flour, water, salt and yeast."),
    Example("Tell me a story.", "No.", unwanted="Paris is the capital of the sea and the boat."),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def model(base):
    return load_model(base, dtype="float32")


@pytest.fixture(scope="module")
def encoder(base):
    return encoder_of(load_tokenizer(base), max_tokens=256)


def settings(**changes):
    return TrainerSettings(**{"batch_rows": 3, "learning_rate": 1e-3, "save_steps": 2, **changes})


def lora(model, **changes):
    return attach(model, AdapterSettings(**{"rank": 4, "alpha": 8, **changes}), seed=1)


def built(kind, encoder):
    rng, sorry = np.random.default_rng(0), refusal_token_id(encoder.tokenizer, "I")
    for index, example in enumerate(EXAMPLES):
        if kind == "supervised":
            yield supervised_row(encoder, example)
        elif kind == "control":
            yield control_row(encoder, example, 300, weights=(2.0, 0.5))
        elif kind == "prefix":
            yield prefix_row(encoder, example, DertaSettings(), index=index, rng=rng)
        else:
            chosen = DertaSettings(keep=0.5, transition_weight=0.5) if kind == "rto-half" else DertaSettings()
            yield rto_row(encoder, example, chosen, refusal_id=sorry, rng=rng)


def by_hand(model, rows, normaliser="weights"):
    """Each row alone through the plain model, in double precision, the loss position by position."""
    total, tokens, weights = 0.0, 0, 0.0
    for row in rows:
        with torch.no_grad():
            logits = model(torch.tensor([row.ids])).logits[0].double().numpy()
        for t, label in enumerate(row.labels):
            if label == IGNORED:
                continue
            before = logits[t - 1]
            total += row.weights[t] * (np.log(np.exp(before - before.max()).sum()) + before.max() - before[label])
            tokens += 1
            weights += row.weights[t]
    return total / {"weights": weights, "tokens": tokens, "rows": len(rows)}[normaliser]


def first_loss(model, rows, out, **changes):
    tokenizer = type("Padding", (), {"pad_token_id": 0, "save_pretrained": lambda *_: None})()
    return train_rows(model, tokenizer, rows, settings(max_steps=1, **changes), out).losses[0]


@pytest.mark.parametrize("kind", ["supervised", "control", "prefix", "rto", "rto-half"])
@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_the_loss_of_each_builder_is_the_one_computed_by_hand(kind, layout, model, encoder, tmp_path):
    rows = list(built(kind, encoder))
    expected = by_hand(model, rows)
    assert first_loss(model, rows, tmp_path, layout=layout) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("normaliser", ["weights", "tokens", "rows"])
def test_a_step_is_divided_by_what_the_settings_say(normaliser, model, encoder, tmp_path):
    rows = [*built("control", encoder), *built("rto-half", encoder)]
    expected = by_hand(model, rows, normaliser)
    assert first_loss(model, rows, tmp_path, batch_rows=6, normaliser=normaliser) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_accumulating_one_row_at_a_time_changes_neither_loss_nor_weights(layout, base, encoder, tmp_path):
    rows, found = [*built("supervised", encoder), *built("rto-half", encoder)], []
    for number, most in enumerate((16, 4096)):
        model = load_model(base, dtype="float32")
        given = {"batch_rows": 6, "micro_tokens": most, "layout": layout}
        found.append((first_loss(model, rows, tmp_path / str(number), **given), model.lm_head.weight.detach()))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-4)


@pytest.mark.parametrize("share", [True, False])
def test_packed_rows_have_the_losses_and_gradients_of_rows_alone(share, base, encoder):
    rows, kinds = [*built("supervised", encoder), *built("prefix", encoder)], ["reply"]

    def gradients(packed):
        model = load_model(base, dtype="float32")
        if packed:
            with attending_by_segment(model):
                losses = position_losses(model, packed_pass(rows, kinds, model.device, share=share))
        else:
            losses = torch.cat([position_losses(model, padded_pass([r], kinds, model.device, pad=0)) for r in rows])
        losses.mean().backward()
        return losses.detach(), [p.grad for p in model.parameters()]

    together, alone = gradients(True), gradients(False)
    assert torch.allclose(together[0], alone[0], atol=1e-5)
    for one, other in zip(together[1], alone[1], strict=True):
        assert torch.allclose(one, other, atol=1e-5 * float(other.abs().max().clamp(min=1)))


def test_a_shared_beginning_is_computed_once(model, encoder):
    rows = list(built("supervised", encoder))
    once = packed_pass(rows, ["reply"], model.device, share=True).inputs["input_ids"].shape[1]
    each = packed_pass(rows, ["reply"], model.device, share=False).inputs["input_ids"].shape[1]
    shared = len(encoder.prompt("What")) - 4  # at least the system message
    assert each - once >= 2 * (shared - 20) > 0


def test_attention_is_the_models_own_again_even_after_an_error(model):
    before = model.config._attn_implementation
    with pytest.raises(KeyError), attending_by_segment(model):
        raise KeyError
    assert model.config._attn_implementation == before


def test_packing_is_tried_before_it_is_used(model, encoder):
    assert packs(model, list(built("supervised", encoder)))
    model.config.sliding_window = 4
    assert not packs(model, list(built("supervised", encoder)))


def test_control_rows_have_the_loss_of_the_refusal_token_trainer(base, tmp_path):
    from demur.suites.training import TrainingRow
    from demur.train.recipe import LoraSettings, TokenRecipe
    from demur.train.refusal_tokens import prepared, start_rows
    from demur.train.token_adapter import TokenTrainer, attach_adapter, collate, numbered, training_arguments

    data = [
        TrainingRow(
            id=e.prompt, category=c, subcategory="", expected=s, conduct="refused", prompt=e.prompt, appropriate="x"
        )
        for e, c, s in zip(EXAMPLES, ("ordinary", "safety", "humanizing"), ("comply", "refuse", "refuse"), strict=True)
    ]
    replies = [EXAMPLES[0].response, "", EXAMPLES[2].response]
    recipe = TokenRecipe(model="x", reply_tokens=100, lora=LoraSettings(first_block=0, rank=4), decision_weight=2.0)
    run = prepared(recipe, load_model(base, dtype="float32"), load_tokenizer(base), data, replies)
    adapted = attach_adapter(run.model, recipe, run.token_ids, start_rows(run))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # trl and transformers disagree on names
        theirs = TokenTrainer(
            model=adapted,
            args=training_arguments(recipe, tmp_path / "theirs", n_rows=3),
            train_dataset=numbered(run.rows),
            processing_class=run.tokenizer,
            data_collator=collate,
            rows=run.rows,
            prefix=None,
            states=None,
            prefix_ids=run.prefix,
            control_ids=run.control_ids,
            decision_weight=2.0,
        )
    with torch.no_grad():
        expected = float(theirs.compute_loss(adapted, {"number": torch.tensor([0, 1, 2])}))
    encoder = encoder_of(run.tokenizer)
    weights = control_weights(3, sum(len(row.reply) for row in run.rows), 2.0)
    rows = [
        control_row(encoder, Example(e.prompt, reply), run.control_ids[row.column], weights=weights)
        for e, reply, row in zip(EXAMPLES, replies, run.rows, strict=True)
    ]
    assert first_loss(adapted, rows, tmp_path / "ours", normaliser="tokens") == pytest.approx(expected, rel=1e-5)


def test_each_kind_has_a_curve_of_its_own(model, encoder, tmp_path):
    answers = list(built("supervised", encoder))
    sorry = refusal_token_id(encoder.tokenizer, "I")
    transitions = [
        rto_row(encoder, Example(e.prompt, "", "rto", unwanted=e.unwanted), DertaSettings(), refusal_id=sorry, rng=None)
        for e in EXAMPLES
    ]
    expected = {"reply": by_hand(model, answers), "rto": by_hand(model, transitions)}
    seen = []
    train_rows(
        model,
        encoder.tokenizer,
        [*answers, *transitions],
        settings(batch_rows=6, epochs=2.0),
        tmp_path,
        watch=seen.append,
    )
    assert dict(seen[0].by_kind) == pytest.approx(expected, rel=1e-5)
    assert [step.number for step in seen] == [1, 2]
    assert seen[0].steps == 2


def grown(base, encoder, out, *, interrupted_at=None, seed=0, **changes):
    """A LoRA run with dropout; the adapter's weights by name."""
    model = lora(load_model(base, dtype="float32"), dropout=0.2)
    rows = [*built("supervised", encoder), *built("prefix", encoder)]
    given = settings(batch_rows=2, epochs=2.0, seed=seed, **changes)
    if interrupted_at:

        def interrupt(stage, done, total):
            if done == interrupted_at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train_rows(model, encoder.tokenizer, rows, given, out, interrupt)
        model = lora(load_model(base, dtype="float32"), dropout=0.2)
    trained = train_rows(model, encoder.tokenizer, rows, given, out)
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}, trained


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_an_interrupted_run_ends_with_the_very_weights_of_an_uninterrupted_one(layout, base, encoder, tmp_path):
    whole, once = grown(base, encoder, tmp_path / "whole", layout=layout)
    resumed, twice = grown(base, encoder, tmp_path / "resumed", layout=layout, interrupted_at=5)
    assert (once.resumed_at, twice.resumed_at) == (0, 4)
    assert same(whole, resumed)
    assert once.losses == twice.losses
    assert len(once.losses) == 6


def test_a_run_is_decided_by_its_seed(base, encoder, tmp_path):
    first, again, other = (grown(base, encoder, tmp_path / str(i), seed=s)[0] for i, s in enumerate((0, 0, 1)))
    assert same(first, again)
    assert not same(first, other)


def test_a_finished_run_is_not_trained_again_until_its_checkpoints_are_cleared(base, encoder, tmp_path):
    whole, _ = grown(base, encoder, tmp_path)
    again, nothing = grown(base, encoder, tmp_path)
    assert same(whole, again)
    assert (nothing.resumed_at, nothing.tokens) == (6, 0)
    clear_checkpoints(tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_a_half_written_checkpoint_does_not_count(base, encoder, tmp_path):
    whole, _ = grown(base, encoder, tmp_path / "whole")
    killed = tmp_path / "killed" / "checkpoints" / "checkpoint-4"
    killed.mkdir(parents=True)
    (killed / "trainer_state.json").write_text("{", encoding="utf-8")
    resumed, trained = grown(base, encoder, tmp_path / "killed")
    assert trained.resumed_at == 0
    assert same(whole, resumed)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint(model, encoder, tmp_path):
    rows = list(built("supervised", encoder))
    given = settings(epochs=6.0, learning_rate=1e38, warmup=0.0, schedule="constant", save_steps=1, max_grad_norm=1e38)
    with pytest.raises(BackendError, match=r"nan in step \d.*checkpoint of step \d is kept"):
        train_rows(model, encoder.tokenizer, rows, given, tmp_path)
    assert len(list((tmp_path / "checkpoints").glob("checkpoint-*/complete"))) == 1


def test_a_full_disk_is_named_and_the_run_goes_on_from_the_last_checkpoint(base, encoder, tmp_path):
    whole, _ = grown(base, encoder, tmp_path / "whole")
    model, rows = (
        lora(load_model(base, dtype="float32"), dropout=0.2),
        [
            *built("supervised", encoder),
            *built("prefix", encoder),
        ],
    )
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(stage, done, total):
        if done == 4:  # files may grow no further: what a full disk does to a writer
            resource.setrlimit(resource.RLIMIT_FSIZE, (2048, unlimited[1]))

    try:
        with pytest.raises(BadInputError, match=r"cannot be written.*free space.*step 2"):
            train_rows(model, encoder.tokenizer, rows, settings(batch_rows=2, epochs=2.0), tmp_path / "full", fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    resumed, trained = grown(base, encoder, tmp_path / "full")
    assert trained.resumed_at == 2
    assert same(whole, resumed)


def test_rows_may_be_drawn_anew_in_each_epoch(model, encoder, tmp_path):
    sorry, drawn = refusal_token_id(encoder.tokenizer, "I"), []

    def rows(epoch):
        rng = np.random.default_rng(epoch)
        drawn.append([rto_row(encoder, e, DertaSettings(keep=0.3), refusal_id=sorry, rng=rng) for e in EXAMPLES])
        return drawn[-1]

    trained = train_rows(model, encoder.tokenizer, rows, settings(epochs=2.0), tmp_path)
    assert drawn[0] != drawn[1]
    assert trained.learnt == sum(len(row.learnt) for epoch in drawn for row in epoch)


def test_rows_that_teach_nothing_and_ids_the_model_does_not_have_are_refused(model, encoder, tmp_path):
    with pytest.raises(BadInputError, match="something to learn"):
        train_rows(
            model, encoder.tokenizer, [LabelledRow((1, 2), (IGNORED,) * 2, (1.0,) * 2, "x")], settings(), tmp_path
        )
    with pytest.raises(BadInputError, match="token id 9999"):
        train_rows(
            model, encoder.tokenizer, [LabelledRow((1, 9999), (IGNORED, 2), (1.0,) * 2, "x")], settings(), tmp_path
        )


def test_a_step_without_any_label_moves_nothing(model, encoder, tmp_path):
    before = model.lm_head.weight.detach().clone()
    blank = [LabelledRow(row.ids, (IGNORED,) * len(row.ids), row.weights, "x") for row in built("supervised", encoder)]
    learnt = list(built("supervised", encoder))
    losses = []
    train_rows(
        model,
        encoder.tokenizer,
        lambda epoch: blank if epoch == 0 else learnt,
        settings(epochs=2.0, max_steps=2, warmup=0.0),
        tmp_path,
        watch=lambda step: losses.append((step.loss, torch.equal(model.lm_head.weight, before))),
    )
    assert losses[0] == (0.0, True)
    assert losses[1][0] > 0


def test_gradient_checkpointing_changes_nothing_but_memory(base, encoder, tmp_path):
    plain, _ = grown(base, encoder, tmp_path / "plain")
    checkpointed, trained = grown(base, encoder, tmp_path / "checkpointed", gradient_checkpointing=True)
    assert all(torch.allclose(plain[name], checkpointed[name], atol=1e-4) for name in plain)
    assert math.isfinite(trained.losses[-1])


def test_what_was_done_is_counted(base, encoder, tmp_path):
    rows = [*built("supervised", encoder), *built("prefix", encoder)]
    _, trained = grown(base, encoder, tmp_path)
    assert trained.tokens == 2 * sum(len(row.ids) for row in rows)
    assert trained.learnt == 2 * sum(len(row.learnt) for row in rows)
    assert trained.layout == "packed"
    assert trained.peak_memory > 1e6
    assert trained.tokens_per_second > 0
