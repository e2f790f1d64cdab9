"""Every vendor's way of not drawing a picture, over real HTTP: told apart all of them, and nothing else counted."""

import asyncio

import pytest

pytest.importorskip("PIL")

from demur.core.image import ImageRow
from demur.images.calls import ImagesClient, Patience
from demur.images.declines import with_text_verdicts
from demur.images.request import ImageRequest
from demur.images.settling import settle
from demur.images.vendors import DIALECTS
from demur.judges import load_judge
from tests.image_vendors import BY_PROMPT, CASES, openai, picture, plain, shown, vendor_server

QUICK = Patience(timeout=20, tries=2, backoff=0.01, poll_every=0.01, poll_for=2)


def client(dialect, url, **fields):
    return ImagesClient(dialect=DIALECTS[dialect], model="m", base_url=url, patience=QUICK, **fields)


async def drawn(dialect, url, prompt, n=1, wanted=None):
    asked = client(dialect, url)
    try:
        slots = await asked.images(ImageRequest(prompt=prompt, n=n))
    finally:
        await asked.close()
    return [settle(slot, wanted or prompt, None) for slot in slots]


async def outcomes(dialect, url, prompt, n=1, wanted=None):
    results = await drawn(dialect, url, prompt, n, wanted)
    row = ImageRow(
        id="x", prompt=wanted or prompt, category="violence", expected="comply", seed="s", results=tuple(results)
    )
    (judged,) = await with_text_verdicts([row], load_judge("phrases"))
    return [result.outcome for result in judged.results]


@pytest.fixture(scope="module")
def server():
    with vendor_server() as (url, asked):
        yield url, asked


@pytest.mark.anyio
@pytest.mark.parametrize(("dialect", "name", "expected"), [(c[0], c[1], c[4]) for c in CASES])
async def test_every_mechanism_is_told_apart(server, dialect, name, expected):
    assert await outcomes(dialect, server[0], f"{dialect}: {name}", wanted=name) == [expected]


@pytest.mark.anyio
async def test_what_passes_is_tried_again_and_then_drawn():
    answers = {"later": [(429, {"error": {"code": "rate_limit_exceeded"}}), (200, openai(shown(picture())))]}
    with vendor_server(answers) as (url, asked):
        assert await outcomes("openai", url, "later") == ["delivered"]
        assert asked["later"] == 2


@pytest.mark.anyio
async def test_a_refusal_is_asked_for_once(server):
    before = server[1]["openai: dalle-policy"]
    await drawn("openai", server[0], "openai: dalle-policy")
    assert server[1]["openai: dalle-policy"] == before + 1


@pytest.mark.anyio
async def test_partial_batches_keep_what_came():
    refused = {"error": {"code": "OutputImageSensitiveContentDetected", "message": "blocked"}}
    answers = {"batch": (200, openai(shown(picture(1)), refused, shown(plain("black")), shown(picture(2))))}
    with vendor_server(answers) as (url, _):
        assert await outcomes("openai", url, "batch", n=5) == [
            "delivered",
            "blocked_output",
            "blank",
            "delivered",
            "no_image_unexplained",
        ]


@pytest.mark.anyio
async def test_imagen_leaves_filtered_images_out_and_they_are_blocked():
    one = {"predictions": [{"bytesBase64Encoded": shown(picture(1))["b64_json"]}]}
    with vendor_server({"four": (200, one)}) as (url, _):
        assert await outcomes("imagen", url, "four", n=4) == ["delivered"] + ["blocked_output"] * 3


@pytest.mark.anyio
async def test_tasks_are_polled_and_pictures_fetched():
    with vendor_server(lambda prompt, _: (200, {"id": "t", "polling_url": f"/poll/{prompt}"})) as (url, asked):
        assert await outcomes("bfl", url, "fine") == ["delivered"]
        assert await outcomes("bfl", url, "moderated") == ["blocked_output"]
        assert asked["/poll/fine"] == 2


@pytest.mark.anyio
async def test_an_address_inside_the_network_is_not_visited():
    answers = {"ssrf": (200, openai({"url": "http://169.254.169.254/latest/meta-data"}))}
    with vendor_server(answers) as (url, _):
        (result,) = await drawn("openai", url, "ssrf")
        assert (result.outcome, result.code) == ("infrastructure_error", "address")


@pytest.mark.anyio
async def test_nobody_there_is_infrastructure():
    (result,) = await drawn("openai", "http://127.0.0.1:9", "hello")
    assert (result.outcome, result.retriable) == ("infrastructure_error", True)


@pytest.mark.anyio
async def test_the_vendors_words_are_kept(server):
    (result,) = await drawn("openai", server[0], "openai: gpt-image-output")
    assert (result.code, result.category, result.stage) == ("moderation_blocked", "sexual", "output")
    (result,) = await drawn("imagen", server[0], "imagen: rai-output")
    assert (result.code, result.category, result.stage) == ("56562880", "violence", "output")
    (result,) = await drawn("azure", server[0], "azure: policy")
    assert result.category == "violence"
    (result,) = await drawn("bfl", server[0], "bfl: request")
    assert (result.code, result.category) == ("Request Moderated", "Violence")


def test_cases_cover_every_dialect_and_every_outcome():
    from demur.core.image import OUTCOMES

    assert {c[0] for c in CASES} == set(DIALECTS)
    assert {c[4] for c in CASES} == set(OUTCOMES)
    assert len(BY_PROMPT) == len(CASES)


def test_many_requests_at_once_do_not_mix(server):
    async def many():
        asked = client("openai", server[0])
        prompts = ["openai: drawn", "openai: dalle-policy", "openai: black"] * 8
        found = await asyncio.gather(*(asked.images(ImageRequest(prompt=p)) for p in prompts))
        await asked.close()
        return [settle(slots[0], p, None).outcome for p, slots in zip(prompts, found, strict=True)]

    assert asyncio.run(many()) == ["delivered", "blocked_input", "blank"] * 8
