"""A control vector that demur wrote does in llama.cpp what the hooks do in transformers."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("xllamacpp")

from demur.activations.subject import open_subject  # noqa: E402
from demur.steer.gguf_vector import write_control_vector  # noqa: E402
from demur.steer.hooks import AddDirection, steered  # noqa: E402
from tests.engine_models import workshop  # noqa: E402
from tests.steer_models import direction  # noqa: E402

PROGRAM = Path(__file__).parents[1] / "llama_vectors.py"
IDS = [1, 20, 45, 70, 95, 120]
N_LAYERS = 2


def in_llama_cpp(model, vector, n_vocab):
    """Logits after the last token without the vector and with it, by llama.cpp in a process of its own."""
    done = subprocess.run(
        [sys.executable, PROGRAM, model, vector, json.dumps(IDS), json.dumps(N_LAYERS), json.dumps(n_vocab)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if "undefined symbol" in done.stderr:
        pytest.skip("this build of the binding does not export llama.cpp's functions")
    assert done.returncode == 0, done.stderr[-500:]
    return np.array(json.loads(done.stdout.splitlines()[-1]))


def test_llama_cpp_loads_the_vector_and_steers_as_the_hooks_do(tmp_path):
    shop = workshop()
    subject = open_subject(shop.bases[False], name="tiny")
    assert subject.parts.n_layers == N_LAYERS
    change = AddDirection(direction(2, model="tiny"), 0.5)
    write_control_vector(tmp_path / "v.gguf", [change], n_layers=N_LAYERS, architecture="llama")
    ids = torch.tensor([IDS])
    with torch.no_grad():
        plain = subject.model(ids).logits[0, -1].numpy()
        with steered(subject, [change]):
            moved = subject.model(ids).logits[0, -1].numpy()
    found = in_llama_cpp(shop.ggufs[False], tmp_path / "v.gguf", len(plain))
    assert np.abs(moved - plain).max() > 0.5
    assert np.abs(found[0] - plain).max() < 0.05
    assert np.abs(found[1] - moved).max() < 0.05
