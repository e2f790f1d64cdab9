"""Steering from files to replies: the worker, the folder, calibration, the server and the command, on a tiny Llama."""

import asyncio
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from demur.activations.direction import save_direction  # noqa: E402
from demur.core.chat import ChatModel  # noqa: E402
from demur.core.controlled import ControlledModel, Turn  # noqa: E402
from demur.core.errors import BadInputError, OutOfRangeError  # noqa: E402
from demur.core.signal import Signal  # noqa: E402
from demur.jobs.steer import SteerConfig, build, make, parse_blocks, save, show  # noqa: E402
from demur.jobs.steering import controlled, known_identity, split_steering  # noqa: E402
from demur.models import parse_model  # noqa: E402
from demur.steer.control import SteeringControl  # noqa: E402
from demur.steer.folder import STEERING_FILE, load_steering, save_steering  # noqa: E402
from demur.steer.gates import single_gate  # noqa: E402
from demur.steer.hooks import AblateDirection, AddDirection, at, steered  # noqa: E402
from demur.steer.plan import SteeringPlan, Step  # noqa: E402
from tests.engine_models import ask, collected, make_base  # noqa: E402
from tests.steer_models import NAME, batch_of, chat_ids, direction, tiny_subject  # noqa: E402

WORDS = ["hello", "what", "is", "the", "capital", "sea", "boat", "12", "naïve", "bread", "salt"]
TEXTS = tuple(" ".join(WORDS[(i * k) % len(WORDS)] for k in range(1, 3 + i)) for i in range(8))


@pytest.fixture(scope="module")
def tiny():
    return tiny_subject()


def plan_of(*interventions, gates=None, model=NAME, when=""):
    return SteeringPlan(model=model, steps=tuple(Step(i, when) for i in interventions), gates=gates or {})


def gate(threshold=0.0, **fields):
    return {"any": single_gate(direction(1, seed=5, name="harm", **fields), threshold, span="t_inst")}


def model_of(tiny, plan, **fields):
    from demur.steer.model import Always, steered_model

    signal = None if plan.gates else Always()
    made = steered_model(plan, lambda: (tiny.model, tiny.tokenizer), name="tiny", signal=signal)
    for key, value in fields.items():
        setattr(made, key, value)
    return made


def run(model, use):
    async def main():
        try:
            return await asyncio.wait_for(use(model), 200)
        finally:
            await model.close()

    return asyncio.run(main())


def expected_text(tiny, text, interventions, n=8):
    """Greedy reply of one prompt under `steered`, by transformers' own generate."""
    ids = torch.tensor([chat_ids(tiny.tokenizer, text)])
    with steered(tiny, interventions):
        out = tiny.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, do_sample=False, pad_token_id=2
        )
    return tiny.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True, clean_up_tokenization_spaces=False)


def test_it_is_a_controlled_model_and_a_signal_and_its_views_are_chat_models(tiny):
    async def use(model):
        turn = await model.open(ask("hi"))
        kinds = isinstance(model, ControlledModel), isinstance(model, Signal), isinstance(turn, Turn)
        await turn.close()
        return *kinds, isinstance(SteeringControl(model).at(0.5), ChatModel)

    assert run(model_of(tiny, plan_of(AddDirection(direction(), 1.0), gates=gate())), use) == (True,) * 4


def test_batched_scores_are_the_gates_own_on_each_prompt_alone(tiny):
    model = model_of(tiny, plan_of(gates=gate(0.02)))

    async def use(model):
        return await model.score([ask(text) for text in TEXTS]), len(model._worker.reader.prefix)

    scores, n_shared = run(model, use)
    assert n_shared > 10
    found = gate(0.02)["any"]
    for row, text in enumerate(TEXTS):
        with steered(tiny, [AddDirection(direction(), 1.0, gate=found)]) as steering, torch.no_grad():
            tiny.model(**batch_of(tiny, [text]))
        assert (scores.p_any[row] >= 0.5) == steering.fired[0, 0]
    assert 0 < (scores.p_any >= 0.5).sum() < len(TEXTS) or np.ptp(scores.p_any) > 0.1


def test_a_mean_over_the_prompt_counts_its_beginning_too(tiny):
    mean = {"any": single_gate(direction(1, seed=5, name="harm"), 0.0, span="mean")}

    async def use(model):
        return await model.score([ask(text) for text in TEXTS])

    scores = run(model_of(tiny, plan_of(gates=mean)), use)
    for row, text in enumerate(TEXTS[:3]):
        with torch.no_grad():
            states = tiny.model(**batch_of(tiny, [text]), output_hidden_states=True).hidden_states[1][0]
        cosine = direction(1, seed=5).cosines(states.numpy().mean(axis=0)[None])[0]
        odds = scores.logits[row, 0] - scores.logits[row, -1]
        assert odds == pytest.approx(cosine / mean["any"].scale, abs=1e-2)


KINDS = {
    "add": [AddDirection(direction(1), 1.0)],
    "ablate": [AblateDirection(direction(1))],
    "prompt": [AddDirection(direction(1), 1.0, at(positions="prompt"))],
    "reply": [AddDirection(direction(2), 1.0, at(positions="reply"))],
    "last": [AddDirection(direction(2), 1.0, at(positions="last"))],
    "both": [AddDirection(direction(1), 1.0, at(positions=(0, -2))), AddDirection(direction(3), -1.0)],
}


@pytest.mark.parametrize("kind", KINDS)
def test_replies_steered_and_not_in_one_batch_are_those_written_alone(tiny, kind):
    model = model_of(tiny, plan_of(*KINDS[kind], gates=gate()))

    async def one(model, i):
        return (await collected(await model.open(ask(TEXTS[i], max_tokens=8)), token=i % 3 - 1))[0]

    async def use(model):
        return await asyncio.gather(*(one(model, i) for i in range(6)))

    for i, text in enumerate(run(model, use)):
        # -1: no decision, 0: declined, 1: answered.
        assert text == expected_text(tiny, TEXTS[i], KINDS[kind] if i % 3 == 1 else [])


def test_a_model_whose_rows_may_not_be_padded_is_steered_the_same(tiny, monkeypatch):
    monkeypatch.setattr(tiny.model.config, "sliding_window", 4096, raising=False)
    for kind in ("add", "last", "prompt"):
        model = model_of(tiny, plan_of(*KINDS[kind], gates=gate()))

        async def use(model):
            turns = [await model.open(ask(text, max_tokens=6)) for text in TEXTS[:2]]
            texts = [(await collected(turn, token=i))[0] for i, turn in enumerate(turns)]
            return texts, model._worker.reader.batched

        texts, batched = run(model, use)
        assert not batched
        assert texts == [expected_text(tiny, TEXTS[0], KINDS[kind], 6), expected_text(tiny, TEXTS[1], [], 6)]


def test_steps_go_with_the_decisions_they_name(tiny):
    push = AddDirection(direction(1), 1.0)
    plan = SteeringPlan(
        model=NAME,
        steps=(Step(push, "safety"), Step(push), Step(push, "respond")),
        gates={"safety": gate()["any"], "humanizing": gate(0.1)["any"]},
    )
    found = [plan.weights(column, plan.categories) for column in (0, 1, 2, -1)]
    assert found == [(1.0, 1.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.0, 0.0, 0.0)]


def test_a_model_words_its_own_refusals_only_if_something_steers_them_and_they_decline(tiny):
    push = AddDirection(direction(1), 1.0)
    for plan, expected in (
        (plan_of(push, gates=gate()), "token"),
        (plan_of(gates=gate()), "nothing"),
        (plan_of(push, gates=gate(), when="respond"), "nothing"),
        (SteeringPlan(NAME, (Step(push),), gate(), follows=0.89), "nothing"),
        (SteeringPlan(NAME, (Step(push),), gate(), follows=0.9), "token"),
    ):
        assert model_of(tiny, plan).text_follows == expected


@pytest.mark.parametrize("says", [True, False])
def test_a_control_token_is_at_most_the_first_thing_said_and_never_text(says):
    from demur.steer.model import Always, steered_model
    from tests.engine_models import workshop

    merged = workshop().merged[False, "lora"]
    head, ids = merged.model.get_output_embeddings().weight, list(merged.control.ids)
    quiet = head[ids].clone().detach()
    with torch.no_grad():
        head[ids] *= 40
    plan = plan_of(AddDirection(direction(1, model="t"), 0.1), model="t")
    model = steered_model(
        plan,
        lambda: (merged.model, merged.tokenizer),
        name="tiny",
        control=merged.control,
        signal=Always(),
        says_tokens=says,
    )

    async def use(model):
        turn = await model.open(ask("hello", max_tokens=6))
        stream = turn.reply(token=0)
        pieces = [piece async for piece in stream]
        return "".join(p.text for p in pieces), pieces[-1].output_tokens

    try:
        text, n = run(model, use)
    finally:
        with torch.no_grad():
            head[ids] = quiet
    assert text
    assert n <= 6
    assert not any(token in text for token in merged.control.texts)


def test_a_dials_views_do_not_disturb_each_other_and_0_is_the_untouched_model(tiny):
    model = model_of(tiny, plan_of(AddDirection(direction(1), 1.0)))

    async def use(model):
        control = SteeringControl(model, bounds=(-1.0, 1.0))
        settings = [0.0, 1.0, -1.0, 0.5, 0.0]
        replies = await asyncio.gather(*(control.at(s).complete(ask(TEXTS[3], max_tokens=8)) for s in settings))
        with pytest.raises(OutOfRangeError):
            control.at(1.5)
        names = {control.at(s).name for s in settings}
        return [reply.text for reply in replies], names

    texts, names = run(model, use)
    expected = [expected_text(tiny, TEXTS[3], [AddDirection(direction(1), s)]) for s in (0.0, 1.0, -1.0, 0.5, 0.0)]
    assert texts == expected
    assert len(names) == 4


def test_a_folder_reads_back_as_it_was_written_and_says_what_is_wrong(tmp_path):
    plan = plan_of(*KINDS["both"], AblateDirection(direction(2)), gates=gate(0.05))
    save_steering(tmp_path / "s", plan, manifest={"created": "now"})
    again = load_steering(tmp_path / "s", for_model=NAME)
    assert (again.hash, again.gate_hash, again.categories) == (plan.hash, plan.gate_hash, ("any",))
    assert str(again.gates["any"].expression) == str(plan.gates["any"].expression)
    with pytest.raises(BadInputError, match=r"made for tiny@1, the model here is other"):
        load_steering(tmp_path / "s", for_model="other")
    record = json.loads((tmp_path / "s" / STEERING_FILE).read_text())
    for change, expected in (
        ({"gates": {"any": {"expression": "harm >"}}}, "expected a number"),
        ({"steps": [{"kind": "add", "direction": "../x.safetensors"}]}, "steps.0.direction"),
        ({"format": 2}, "format"),
    ):
        (tmp_path / "s" / STEERING_FILE).write_text(json.dumps({**record, **change}))
        with pytest.raises(BadInputError) as failed:
            load_steering(tmp_path / "s")
        assert expected in str(failed.value)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("")
    with pytest.raises(BadInputError, match="holds something that is no steering"):
        save_steering(tmp_path / "full", plan)


def test_strength_moves_the_plan_and_not_the_signal():
    plan = plan_of(AddDirection(direction(), -0.5), gates=gate())
    assert plan.at_strength(0.9).steps[0].intervention.strength == -0.9
    assert plan.at_strength(0.9).hash != plan.hash
    assert plan.at_strength(0.9).gate_hash == plan.gate_hash
    assert plan_of(AddDirection(direction(), -0.5), gates=gate(0.1)).gate_hash != plan.gate_hash


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A base folder, its identity, direction files and labelled prompts whose label its gate can tell."""
    root = tmp_path_factory.mktemp("steer")
    base = make_base(root / "base")
    name = f"hf/{base}"
    identity = known_identity(parse_model(name))
    save_direction(root / "refusal.safetensors", direction(1, model=identity))
    save_direction(root / "harm.safetensors", direction(1, seed=5, model=identity, name="harm", span="t_inst"))
    prompts = [
        " ".join(WORDS[(i * 7 + k * (i + 1)) % len(WORDS)] for k in range(1, 4 + i % 9)) + f" {i}" for i in range(60)
    ]
    save_steering(root / "probe", plan_of(gates=gate(0.0, model=identity), model=identity))
    model = controlled(f"{name}+{root / 'probe'}")
    scores = run(model, lambda m: m.score([ask(p) for p in prompts])).p_any
    middle = np.median(scores)
    with (root / "data.jsonl").open("w") as file:
        for prompt, score in zip(prompts, scores, strict=True):
            row = {"prompt": prompt, "expected": "refuse" if score > middle else "comply", "category": "safety"}
            file.write(json.dumps(row) + "\n")
    return root, name


def config_of(world, **fields):
    root, name = world
    given = {"strength": 1.0, "gates": (("", root / "harm.safetensors"),), "data": root / "data.jsonl", **fields}
    return SteerConfig(model=name, directions=(root / "refusal.safetensors",), **given)


def test_a_folder_is_named_after_a_plus_wherever_the_plus_is(world, tmp_path):
    root, name = world
    odd = tmp_path / "a+b"
    save_steering(odd, load_steering(root / "probe"))
    assert split_steering(f"{name}+{odd}") == (name, odd)
    assert split_steering(f"smollm2+adapters/x+{odd}") == ("smollm2+adapters/x", odd)
    assert split_steering(name) is None
    assert split_steering(f"{name}+{tmp_path}") is None


def test_a_border_is_set_on_labelled_prompts_and_its_rates_are_told(world):
    made = make(config_of(world))
    assert made.border.auroc == 1.0
    assert (made.border.hits, made.border.false_alarms) == (1.0, 0.0)
    assert make(config_of(world, threshold=0.3)).border is None


def test_calibrate_and_serve_take_a_steering_folder_unchanged(world, tmp_path):
    import httpx

    from demur.jobs.calibrate import CalibrateConfig, calibrate
    from demur.jobs.serve import ServeConfig, build_models, read_policies
    from demur.serve.app import build_app
    from demur.serve.book import make_book
    from demur.serve.keys import NO_KEYS
    from demur.serve.service import source_of
    from demur.serve.settings import ServerSettings

    root, name = world
    config = config_of(world)
    plan = save(config, make(config), tmp_path / "s", measured=4)
    assert plan.follows is not None
    save_steering(tmp_path / "s", SteeringPlan(plan.model, plan.steps, plan.gates, follows=1.0))
    steered_name = f"{name}+{tmp_path / 's'}"
    targets = ("over_refusal<=0.3",)
    summary = calibrate(
        CalibrateConfig(
            model=steered_name, targets=targets, out=tmp_path / "p.toml", data=root / "data.jsonl", delta=0.2
        )
    )
    assert summary.policy.source.name == "steering-gate"
    assert summary.policy.source.identity == f"{plan.model}!{plan.gate_hash}"

    models = build_models(ServeConfig(models=(f"small={steered_name}",)))
    book = make_book(read_policies(tmp_path / "p.toml"), {k: source_of(m) for k, m in models.items()}, default=None)
    app = build_app(models, book, ServerSettings(), keys=NO_KEYS)
    rows = [json.loads(line) for line in (root / "data.jsonl").read_text().splitlines()]

    async def ask_server(prompt):
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=200) as client:
            body = {"model": "small", "messages": [{"role": "user", "content": prompt}], "max_tokens": 6}
            return (await client.post("/v1/chat/completions", json=body)).json()

    async def all_of_them():
        try:
            return await asyncio.gather(*(ask_server(row["prompt"]) for row in rows[:10]))
        finally:
            await models["small"].close()

    write = reply_maker(name)
    decided = []
    for row, reply in zip(rows, asyncio.run(all_of_them()), strict=False):
        decided.append(reply["demur"]["action"])
        message = reply["choices"][0]["message"]
        expected = write(row["prompt"], plan.interventions if decided[-1] == "refuse" else [])
        assert expected.strip() in ("", (message.get("refusal") or message["content"]).strip())
    assert set(decided) == {"refuse", "answer"}


def reply_maker(name):
    """Replies as transformers writes them under `steered`."""
    from demur.jobs.subject import subject_of

    subject = subject_of(name)
    return lambda prompt, interventions: expected_text(subject, prompt, interventions, 6)


def test_upstream_and_llama_cpp_cannot_steer_and_say_so(world):
    root, name = world
    for options in ({"upstream": "http://127.0.0.1:9"}, {"engine": "llamacpp"}):
        with pytest.raises(BadInputError, match="steering acts inside a model"):
            controlled(f"{name}+{root / 'probe'}", **options)


def test_a_folder_without_a_gate_needs_a_signal(world, tmp_path):
    _, name = world
    ungated = make(config_of(world, gates=(), data=None)).plan
    save_steering(tmp_path / "s", ungated)
    with pytest.raises(BadInputError, match="nothing says when to steer"):
        controlled(f"{name}+{tmp_path / 's'}")
    chat = run(build(name, ungated), lambda m: SteeringControl(m).at(1.0).complete(ask("hello", max_tokens=4)))
    assert chat.output_tokens <= 4


def test_an_audit_asks_a_model_under_its_steering(world, tmp_path):
    from demur.core.identity import Decoding
    from demur.jobs.audit import AuditConfig, audit
    from demur.jobs.steering import steered_chat

    _, name = world
    plan = make(config_of(world, gates=(), data=None)).plan
    save_steering(tmp_path / "s", plan)
    named = f"{name}+{tmp_path / 's'}"
    spec, identity, chat = steered_chat(named, Decoding())
    assert (spec.name, identity.intervention) == (name, plan.hash)
    write = reply_maker(name)
    reply = run(chat.model, lambda _: chat.complete(ask("hello", max_tokens=6)))
    assert reply.text.strip() == write("hello", plan.interventions).strip()
    profile = audit(
        AuditConfig(
            model=named,
            suite="quick",
            out=tmp_path / "run",
            limit=4,
            judges=("phrases",),
            decoding=Decoding(max_tokens=4),
        )
    )
    assert f"!{plan.hash}" in profile.manifest["model"]
    assert steered_chat(name, Decoding()) is None


def test_blocks_elsewhere_get_the_length_of_the_stream_there(world):
    plan = make(config_of(world, gates=(), blocks=(1, 2))).plan
    norms = plan.interventions[0].norms
    assert set(norms) == {1, 2}
    assert all(norm > 0 for norm in norms.values())


def test_show_gives_replies_with_and_without_and_says_where_the_gate_opened(world):
    config = config_of(world, threshold=0.0)
    found = show(config, make(config), TEXTS[:4], max_tokens=5, judge="phrases")
    for one in found:
        assert one.opened == (one.p >= 0.5)
        assert one.opened or one.plain == one.steered
        assert one.verdicts is not None


def test_what_cannot_be_combined_says_so(world, tmp_path):
    root, _ = world
    harm = root / "harm.safetensors"
    with pytest.raises(BadInputError, match="nothing says how they combine"):
        make(config_of(world, gates=(("a", harm), ("b", harm))))
    with pytest.raises(BadInputError, match="expected a --gate"):
        make(config_of(world, gates=(), threshold=0.1))
    save_direction(tmp_path / "other.safetensors", direction(1, model="other@1"))
    with pytest.raises(BadInputError, match="was found on other@1"):
        make(config_of(world).model_copy(update={"directions": (tmp_path / "other.safetensors",)}))
    assert parse_blocks("2, 4-6") == (2, 4, 5, 6)
    with pytest.raises(BadInputError, match="expected numbers and ranges"):
        parse_blocks("6-4")


def test_the_command_shows_saves_bakes_and_exports(world, tmp_path, run_cli):
    root, name = world
    common = ("steer", name, "-d", root / "refusal.safetensors")
    code, out, err = run_cli(
        *common, "-g", root / "harm.safetensors", "--threshold", "0", "-p", "hello", "--judge", "", "--json"
    )
    assert code == 0, err
    assert json.loads(out)["replies"][0]["prompt"] == "hello"
    code, out, err = run_cli(*common, "--ablate", "--bake", tmp_path / "baked", "--json")
    assert code == 0, err
    assert json.loads(out)["baked"]["kl"] < 1e-6
    code, _, err = run_cli(*common, "--gguf", tmp_path / "v.gguf")
    assert code == 3
    assert "output of block 1" in err
    code, _, err = run_cli(*common)
    assert code == 3
    assert "nothing to do" in err
