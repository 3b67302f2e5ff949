from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

from daemon.evaluation import Score, make_report, render_page, score
from daemon.evaluation.hotwords import propose_hotwords
from daemon.transcript import ModelIdentity, Segment

MODEL = ModelIdentity("m", "00", "float32", "cpu")
EVIL = '</p><script>alert(1)</script><img src=x onerror="alert(1)">'


def scores(*pairs: tuple[str, str]) -> list[Score]:
    return [score(f"{at}.wav", wanted, [Segment(0, 1, got)], "standard") for at, (wanted, got) in enumerate(pairs)]


def test_words_missed_repeatedly_are_proposed_in_their_own_spelling() -> None:
    heard = scores(
        ("Call Lindqvist, and the report", "call limb and a report"),
        ("call Lindqvist", "call"),
        ("the stent report", "a stand report"),
    )
    assert propose_hotwords(heard, ()) == [("Lindqvist", 2, 2)]
    assert propose_hotwords(heard, ("lindqvist",)) == []


def test_letters_missed_together_are_proposed_as_one_word() -> None:
    heard = scores(("请叫林医生来", "请叫零一声来"), ("林医生很好", "您以省很好"))
    assert propose_hotwords(heard, ()) == [("林医生", 2, 2)]


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        assert not {name for name, _ in attrs if name.startswith("on") or name in {"src", "href"}}


def test_page_escapes_every_text_and_loads_nothing() -> None:
    one = score(f"{EVIL}.wav", f"{EVIL} spoken\u202e", [Segment(0, 1, EVIL + " written")], "none")
    report = make_report(
        [("as configured", MODEL, [one]), (EVIL, ModelIdentity(EVIL, "", EVIL, EVIL), [one])], {EVIL: EVIL}, "none", ()
    )
    page = render_page(report)
    tags = _Tags()
    tags.feed(page)
    assert not tags.seen & {"script", "img", "link", "iframe"}
    assert "\u202e" not in page
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style.group(1).encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}'" in page
    assert " style=" not in page


def test_every_cell_of_the_page_has_headings() -> None:
    heard = scores(("one two", "one too"), ("", "noise"), ("three", "three"))
    page = render_page(make_report([("as configured", MODEL, heard), ("k=v", MODEL, heard)], {}, "standard", ()))
    rows = re.findall(r"<tr>(.*?)</tr>", page)
    assert rows
    for row in rows:
        is_head = 'scope="col"' in row
        assert row.startswith('<th scope="col">' if is_head else '<th scope="row"')
        assert "<td" not in row if is_head else row.count("<th") == 1
        assert "></th>" not in row
    assert "Most frequent errors" in page
    perfect = scores(("three", "three"))
    page = render_page(make_report([("as configured", MODEL, perfect)], {}, "standard", ()))
    assert "Most frequent errors" not in page
    assert "WER 0.0%, CER 0.0%" in page


def test_report_as_json_has_every_figure() -> None:
    first = scores(("one two", "one too"), ("", "noise"))
    report = make_report([("as configured", MODEL, first), ("k=v", MODEL, first)], {"bad.wav": "why"}, "standard", ())
    facts = json.loads(json.dumps(report.as_dict()))
    assert (
        facts["arms"][0]["total"] | {"n_words": 2, "substitutions": 1, "insertions": 1, "wer": 1.0}
        == (facts["arms"][0]["total"])
    )
    assert facts["arms"][0]["recordings"][1]["wer"] is None
    assert facts["arms"][0]["difference"] is None
    assert facts["arms"][1]["difference"]["verdict"] == "too few"
    assert facts["failed"] == [{"name": "bad.wav", "reason": "why"}]
    assert {"reference": "two", "transcript": "too", "n": 1} in facts["confusions"]
    assert {"reference": None, "transcript": "noise", "n": 1} in facts["confusions"]
