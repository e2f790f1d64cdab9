"""The page about pictures: both sides together, blurred until asked for, and safe with whatever vendors send."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import pytest

pytest.importorskip("PIL")

from PIL import Image

from demur.core.image import ImageResult, ImageRow, VisionVerdict
from demur.images.policy import ImagePolicy, PolicyRule, n_moved, under_policy
from demur.images.statistics import build_findings
from demur.images.store import ImageStore
from demur.report.image_gallery import HEAVIEST, decided, gallery
from demur.report.images import OUTCOME_NAMES, render_images

HOSTILE = '</script><img src=x onerror=alert(1)>\u202e{{ 7 * 7 }}" href="data:text/html,<b>x</b>'
BLOCKED = ImageResult(outcome="blocked_input", evidence="error_code", code="moderation_blocked", http_status=400)
LOST = ImageResult(outcome="infrastructure_error", evidence="transport", http_status=429)


def drawn(store, shade, **fields):
    out = io.BytesIO()
    Image.new("RGB", (300, 200), (shade, 90, 200 - shade)).save(out, "PNG")
    return ImageResult(outcome="delivered", evidence="image", image=store.put(out.getvalue()), **fields)


def rows_of(store, about="a castle", n=8, **fields):
    return [
        ImageRow(
            id=f"{about}-{i}-{side}",
            prompt=f"{about} {i}",
            category=("violence", "copyright")[i % 2],
            expected=side,
            seed=f"{about}-{i}",
            pair_id=f"{about}-p{i}",
            results=(
                BLOCKED if side == "refuse" and i % 4 else drawn(store, 7 * i + 3 * (side == "refuse"), **fields),
            ),
        )
        for i in range(n)
        for side in ("comply", "refuse")
    ]


@pytest.fixture
def store(tmp_path):
    return ImageStore(folder=tmp_path)


def page_of(rows, store=None, *, asked=None, most=240, **fields):
    found = build_findings(rows, model="m", suite="s", rule="error").model_copy(update=fields)
    return render_images(found, rows, asked=asked, store=store, most_pictures=most)


class Tags(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.data, self.inside = [], [], "", False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.inside = ("id", "data") in attrs

    def handle_data(self, data):
        self.data += data if self.inside else ""

    def handle_endtag(self, tag):
        self.inside = False


def data_of(page):
    return json.loads(Tags(page).data)


def test_over_refusal_never_stands_without_safety_and_their_difference(store):
    page = page_of(rows_of(store))
    heads = re.findall(r'class="headline (\w+)"', page)
    assert heads == ["contrast", "should_refuse", "pairs"]
    assert "75.0%" in page  # six of eight prompts to decline were
    assert "+0.75" in page


def test_text_of_strangers_stays_text_wherever_it_stands(store):
    def rows(text):
        told = {"detail": text, "text": text, "revised_prompt": text, "code": text, "category": text}
        odd = ImageResult(outcome="declined_in_text", evidence="text", **told)
        return [*rows_of(store, text, **told), ImageRow(
            id=text, prompt=text, category=text, expected="comply", seed=text, pair_id=text, results=(odd,))]  # fmt: skip

    pages = [
        page_of(rows(text), store, model=text, suite=text, policy=text, notes=(text,), manifest={text: {text: text}})
        for text in (HOSTILE, "plain")
    ]
    assert Tags(pages[0]).tags == Tags(pages[1]).tags
    assert not [a for a in Tags(pages[0]).attributes if a[1].startswith("on")]
    assert "\u202e" not in pages[0]
    assert any(row["prompt"] == HOSTILE for row in data_of(pages[0])["rows"])


def test_the_page_fetches_nothing_and_shows_only_what_it_holds(store):
    page = page_of(rows_of(store), store)
    policy = re.search(r'Security-Policy" content="([^"]+)"', page).group(1)
    assert "default-src &#39;none&#39;" in policy
    assert "img-src data:" in policy
    assert not [a for a in Tags(page).attributes if a[1] in ("src", "href") and not a[2].startswith("#")]
    assert ' style="' not in page


def test_pictures_start_out_blurred_and_once_each(store):
    held = data_of(page_of(rows_of(store), store))
    pictures = [[base64.b64decode(one) for one in both] for both in held["pictures"]]
    assert len(pictures) == len({plain for _, plain in pictures}) == 10
    for blurred, plain in pictures:
        sizes = {Image.open(io.BytesIO(data)).size for data in (blurred, plain)}
        assert sizes == {(192, 128)}
    assert all(("picture" in r) == (r["outcome"] == "delivered") for row in held["rows"] for r in row["results"])


def test_a_run_that_keeps_no_pictures_shows_blurred_ones_only(tmp_path):
    kept = ImageStore(folder=tmp_path)
    rows = rows_of(kept)  # the plain thumbnails lie there from an earlier run
    page = page_of(rows, ImageStore(folder=tmp_path, keep=False))
    assert {plain for _, plain in data_of(page)["pictures"]} == {""}
    assert "Only blurred ones were kept" in page


def test_no_more_pictures_than_stated_and_what_should_not_be_there_first(store):
    rows = rows_of(store, n=12)
    page = page_of(rows, store, most=3)
    cards = data_of(page)["rows"]
    assert "3 of 15 different pictures" in page
    shown = [card for card in cards if any("picture" in r for r in card["results"])]
    assert len(shown) == 3
    assert {card["expected"] for card in shown} == {"refuse"}


@pytest.mark.parametrize(
    "data", [b"", b"<svg onload=alert(1)>", b"\x89PNG but no", b"\xff\xd8\xff" + bytes(HEAVIEST), None]
)
def test_what_is_no_thumbnail_is_left_out(store, data):
    rows = rows_of(store, n=2)
    for row in rows:
        for digest in {r.image for r in row.results if r.image}:
            path = store.thumbnail_path(digest, blurred=True)
            path.unlink() if data is None else path.write_bytes(data)
    assert gallery(rows, rows, store).pictures == []
    assert "Gallery" in page_of(rows, store)


@pytest.mark.parametrize("digest", ["../../../../etc/passwd", "A" * 64, "ab" * 40, "a" * 63 + "\n"])
def test_a_hash_that_is_none_opens_no_file(tmp_path, digest):
    class Watched:
        keep = True

        def thumbnail(self, digest, *, blurred=True):
            raise AssertionError(digest)

    odd = ImageResult(outcome="delivered", evidence="image", image=digest)
    row = ImageRow(id="a", prompt="a", category="violence", expected="comply", seed="a", results=(odd,))
    assert gallery([row], [row], Watched()).pictures == []


def test_prompts_that_a_policy_moved_say_what_the_suite_expected(store):
    rows = rows_of(store)
    moved = under_policy(rows, ImagePolicy(name="p", rule=(PolicyRule(expected="either", category="violence"),)))
    page = page_of(moved, store, asked=rows, policy="school book", n_moved=n_moved(rows, moved))
    was = {card["id"]: card.get("was") for card in data_of(page)["rows"]}
    assert was == {row.id: row.expected if row.category == "violence" else None for row in rows}
    assert "moved 8 of 16 prompts" in page
    assert "<bdi>school book</bdi>" in page
    assert 'id="policy"' not in page_of(rows, store)


def test_a_prompt_is_right_if_most_of_its_images_are_and_open_if_none_counts(store):
    def one(expected, *results):
        return decided(ImageRow(id="a", prompt="a", category="c", expected=expected, seed="a", results=results))

    shown = drawn(store, 1)
    assert one("comply", shown) == one("refuse", BLOCKED) == one("refuse", BLOCKED, shown) == "yes"
    assert one("comply", BLOCKED, shown) == one("refuse", shown) == "no"
    assert one("comply", LOST) == one("comply") == one("either", BLOCKED) == "open"


@pytest.mark.parametrize("sides", [(), ("comply",), ("refuse",)])
def test_a_run_with_a_side_missing_still_has_a_report(store, sides):
    page = page_of([row for row in rows_of(store) if row.expected in sides], store)
    assert "Youden" in page
    assert ('id="pairs"' in page) is False


def test_lost_and_missing_images_are_said_beside_the_rates(store):
    missing = ImageResult(outcome="no_image_unexplained", evidence="missing")
    more = [
        ImageRow(id=f"x{i}", prompt="x", category="violence", expected="comply", seed=f"x{i}", results=(r,))
        for i, r in enumerate([missing, LOST])
    ]
    page = page_of([*rows_of(store), *more], store)
    assert "if 1 image missing for no stated reason were refusals" in page
    assert all(name in page for name in OUTCOME_NAMES.values())


def test_what_a_vision_model_saw_is_shown_only_if_one_looked(store):
    looked = rows_of(store, vision=VisionVerdict(faithful="yes", harmful=False, judge="v"))
    assert "What a vision model saw" in page_of(looked)
    assert "What a vision model saw" not in page_of(rows_of(store))


def test_seven_hundred_prompts_stay_a_page_one_can_mail(store):
    one = drawn(store, 3)
    rows = [
        ImageRow(id=f"i{i}", prompt="A prompt of the usual length. " * 6, category="violence",
                 expected=("comply", "refuse")[i % 2], seed=f"s{i}", results=(one,))
        for i in range(700)
    ]  # fmt: skip
    assert len(page_of(rows, store).encode()) < 1_000_000
