"""The html page in a real Chromium, as its reader uses it."""

from __future__ import annotations

import io
import re
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING

import docx
import pytest

from daemon.config import Preprocess
from daemon.documents import Clip, Sound, read_json, render
from daemon.frontend import Encoding
from daemon.transcript import Calibration, Segment
from tests.documents.pages import (
    CALL,
    HOSTILE,
    MEETING,
    open_file,
    open_page,
    read_saved,
    sample_many,
    write_audio,
)
from tests.unit.test_documents import SILENCE, TALK

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import BrowserContext

    from daemon.frontend import FrontEnd
    from daemon.transcript import Transcript

pytestmark = pytest.mark.documents

TRANSCRIBED = MEETING.segments[2].text
QUUX_S = 12.0 + 2 * 0.45  # when that word begins


def edited(context: BrowserContext, folder: Path) -> Path:
    """Correct the doubtful name of the meeting, name its speaker, and save it as json."""
    opened = open_page(context, MEETING, folder, has_audio=False)
    opened.correct("Quux", "Cooks")
    opened.page.locator("#voices button", has_text="S1").click()
    opened.page.keyboard.insert_text("Zoë Lüders")
    opened.page.keyboard.press("Enter")
    return opened.save("json", folder)


# Hearing


def test_page_asks_for_nothing_but_the_recording_next_to_it(context: BrowserContext, tmp_path: Path) -> None:
    opened = open_page(context, MEETING, tmp_path)
    asked = {url.rpartition("/")[2] for url in opened.requests}
    assert asked <= {
        *(f"Budget%20meeting.listen.{ending}" for ending in ("mp3", "m4a", "opus")),
        "Budget%20meeting.wav",
    }
    assert all(url.startswith("file://") for url in opened.requests)
    for address in ("https://example.org/x", "file:///etc/hostname"):
        assert opened.page.evaluate("url => fetch(url).then(() => 'sent', () => 'refused')", address) == "refused"
    assert [error for error in opened.errors if "example.org" not in error and "hostname" not in error] == []


def test_clicking_a_word_moves_the_time_to_it_and_plays(context: BrowserContext, tmp_path: Path) -> None:
    opened = open_page(context, MEETING, tmp_path)
    assert opened.now() == 0
    opened.page.locator(".word", has_text="Quux").click()
    assert QUUX_S <= opened.now() < QUUX_S + 3
    opened.until("!document.getElementById('audio').paused")
    opened.until("document.getElementById('audio').currentTime > 13.2")


def test_spoken_word_lights_up_and_a_few_where_words_have_no_times(context: BrowserContext, tmp_path: Path) -> None:
    opened = open_page(context, MEETING, tmp_path)
    seek = "s => { document.getElementById('audio').currentTime = s; }"
    opened.page.evaluate(seek, QUUX_S + 0.1)
    opened.until("document.querySelector('.now')?.textContent === 'Quux'")
    assert opened.page.locator(".now").count() == 1
    opened.page.evaluate(seek, 46.0)
    opened.until("document.querySelectorAll('.now').length > 2")
    lit = " ".join(opened.page.locator(".now").all_inner_texts())
    assert "WordPress" in lit
    assert "plan" not in lit


def test_times_are_shown_to_the_hundredth(context: BrowserContext, tmp_path: Path) -> None:
    opened = open_page(context, MEETING, tmp_path)
    assert opened.page.locator(".facts span").all_inner_texts() == ["2026-01-30", "1:02.34", "English"]
    assert opened.page.locator("#length").inner_text() == "1:02.34"
    opened.page.locator("#timeline").focus()
    opened.page.keyboard.press("ArrowRight")
    assert opened.page.locator("#now").inner_text() == "0:05.00"


def test_keyboard_plays_moves_and_finds_the_next_doubtful_word(context: BrowserContext, tmp_path: Path) -> None:
    opened = open_page(context, MEETING, tmp_path)
    page = opened.page
    page.keyboard.press("Space")
    opened.until("!document.getElementById('audio').paused")
    page.keyboard.press("Space")
    opened.until("document.getElementById('audio').paused")
    page.keyboard.press("n")
    assert opened.now() == pytest.approx(QUUX_S, abs=0.01)
    assert page.locator(".chosen").inner_text() == "Quux"
    page.keyboard.press("n")
    assert page.locator(".chosen").inner_text() == "1,250,000"
    page.keyboard.press("p")
    assert opened.now() == pytest.approx(QUUX_S, abs=0.01)
    page.keyboard.press("ArrowLeft")
    assert opened.now() == pytest.approx(QUUX_S - 5, abs=0.01)
    page.keyboard.press("ArrowDown")
    assert opened.now() == pytest.approx(12.0, abs=0.01)


def test_letters_are_no_shortcuts_where_the_reader_turns_them_off(context: BrowserContext, tmp_path: Path) -> None:
    opened = open_page(context, MEETING, tmp_path)
    opened.page.keyboard.press("?")
    opened.page.locator("#letters").uncheck()
    opened.page.keyboard.press("Escape")
    opened.page.keyboard.press("n")
    assert opened.now() == 0


def test_speed_keeps_the_pitch(context: BrowserContext, tmp_path: Path) -> None:
    page = open_page(context, MEETING, tmp_path).page
    page.select_option("#speed", "1.5")
    audio = "document.getElementById('audio')"
    assert page.evaluate(f"[{audio}.playbackRate, {audio}.preservesPitch]") == [1.5, True]


def test_missing_recording_is_said_and_can_be_chosen(context: BrowserContext, tmp_path: Path) -> None:
    opened = open_page(context, MEETING, tmp_path, has_audio=False)
    page = opened.page
    page.wait_for_selector("#missing", state="visible")
    assert "The recording is not next to this page." in page.locator("#missing").inner_text()
    assert page.locator("#play").is_disabled()
    other = tmp_path / "other.wav"
    write_audio(other, 20)
    page.set_input_files("#file", other)
    opened.until("document.getElementById('message').textContent.includes('may be another recording')")
    write_audio(tmp_path / "mine.wav", MEETING.audio.duration_s)
    page.set_input_files("#file", tmp_path / "mine.wav")
    opened.until("document.getElementById('audio').duration > 60")
    page.locator(".word", has_text="Quux").click()
    opened.until("document.getElementById('audio').currentTime > 12")


def test_clips_are_heard_where_the_recording_is_not_there(
    context: BrowserContext, tmp_path: Path, front_end: FrontEnd
) -> None:
    tone = tmp_path / "tone.wav"
    write_audio(tone, 4)
    with (
        front_end.prepare(tone, Preprocess(), "off") as sound,
        front_end.encode(sound.waveform, Encoding("mp3")) as file,
    ):
        clip = Clip(44.5, 48.5, file.read())
    path = tmp_path / "page.html"
    path.write_bytes(render(MEETING, ["html"], has_timestamps=False, sound=Sound(clips=(clip,)))["html"])
    opened = open_file(context, path)
    page = opened.page
    page.wait_for_selector("#clips", state="visible")
    assert "only the passages marked ▶ can be played" in page.locator("#missing").inner_text()
    marked = page.locator(".clip .words").all_inner_texts()
    assert marked == [page.locator(".words", has_text="WordPress").inner_text()]
    assert page.locator("#play").is_disabled()
    page.locator(".word", has_text="WordPress").click()
    opened.until("!document.getElementById('audio').paused")
    opened.until("Number(document.getElementById('timeline').getAttribute('aria-valuenow')) > 46.5")
    page.locator(".word", has_text="Quux").click()
    opened.until("document.getElementById('audio').paused")
    assert opened.now() == pytest.approx(QUUX_S, abs=0.01)
    page.keyboard.press("Space")
    assert "The page has no audio for this passage." in page.locator("#message").inner_text()
    write_audio(tmp_path / "mine.wav", MEETING.audio.duration_s)
    page.set_input_files("#file", tmp_path / "mine.wav")
    opened.until("document.getElementById('audio').duration > 60")
    page.locator(".word", has_text="WordPress").click()
    opened.until("document.getElementById('audio').currentTime > 45")
    assert opened.errors == []


def test_another_recording_of_the_same_name_is_not_played(context: BrowserContext, tmp_path: Path) -> None:
    write_audio(tmp_path / "processed" / "Budget meeting.wav", 300)
    opened = open_page(context, MEETING, tmp_path, has_audio=False)
    opened.page.wait_for_selector("#missing", state="visible")


def test_listening_copy_is_preferred(context: BrowserContext, tmp_path: Path) -> None:
    write_audio(tmp_path / "outbox" / "Budget meeting.listen.mp3", MEETING.audio.duration_s)  # browsers look inside
    opened = open_page(context, MEETING, tmp_path)
    assert opened.page.evaluate("document.getElementById('audio').currentSrc").endswith("Budget%20meeting.listen.mp3")


# Correcting


def test_correction_is_undone_and_redone(context: BrowserContext, tmp_path: Path) -> None:
    opened = open_page(context, MEETING, tmp_path)
    page, text = opened.page, opened.page.locator("#text")
    opened.correct("Quux", "Cooks")
    assert "Ask Mr Cooks about the budget" in text.inner_text()
    assert page.locator("#doubts").inner_text() == "1 doubtful word"
    page.keyboard.press("Control+z")
    assert "Ask Mr Quux about the budget" in text.inner_text()
    assert page.locator("#doubts").inner_text() == "2 doubtful words"
    page.locator("#redo").click()
    assert "Ask Mr Cooks about the budget" in text.inner_text()
    page.locator("#undo").click()
    assert page.locator("#undo").is_disabled()


def test_words_that_stay_keep_their_times_and_new_ones_take_those_of_the_old(
    context: BrowserContext, tmp_path: Path
) -> None:
    segment = read_saved(edited(context, tmp_path))["segments"][2]
    assert [word["text"] for word in segment["words"]] == TRANSCRIBED.replace("Quux", "Cooks").split()
    before = {word.text: word.start_s for word in MEETING.segments[2].words}
    for word in segment["words"]:
        assert word["start_s"] == pytest.approx(before["Quux" if word["text"] == "Cooks" else word["text"]], abs=2e-3)


def test_saved_json_is_accepted_by_render_with_the_words_of_the_model(context: BrowserContext, tmp_path: Path) -> None:
    path = edited(context, tmp_path)
    assert path.name == "Budget meeting.corrected.json"
    saved = read_saved(path)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", saved["corrected_at"])
    assert saved["segments"][2]["text_raw"] == MEETING.segments[2].text
    assert [at for at, segment in enumerate(saved["segments"]) if segment["text_raw"] is not None] == [2]
    transcript = read_json(path.read_bytes())
    assert transcript.segments[2].words
    assert transcript.corrected_at == saved["corrected_at"]
    text = render(transcript, ["txt"], has_timestamps=False)["txt"].decode()
    assert "Zoë Lüders: Ask Mr Cooks about the budget" in text
    assert saved["text"] == transcript.text


def test_unsaved_corrections_survive_a_reload_and_are_gone_after_saving(
    context: BrowserContext, tmp_path: Path
) -> None:
    opened = open_page(context, MEETING, tmp_path)
    page = opened.page
    opened.correct("Quux", "Cooks")
    page.reload()
    assert "Ask Mr Cooks about the budget" in page.locator("#text").inner_text()
    assert "Your unsaved corrections of" in page.locator("#message").inner_text()
    opened.save("docx", tmp_path)
    assert page.evaluate("localStorage.length") == 0
    page.reload()
    assert "Ask Mr Quux about the budget" in page.locator("#text").inner_text()


def test_unsaved_corrections_are_forgotten_at_a_button(context: BrowserContext, tmp_path: Path) -> None:
    opened = open_page(context, MEETING, tmp_path)
    opened.correct("Quux", "Cooks")
    assert opened.page.evaluate("Object.keys(localStorage)") == [f"scribed:{MEETING.job_id}"]
    opened.page.locator("#save summary").click()
    opened.page.locator("#forget").click()
    assert opened.page.evaluate("localStorage.length") == 0
    assert "Ask Mr Quux about the budget" in opened.page.locator("#text").inner_text()


def test_editing_can_be_given_up(context: BrowserContext, tmp_path: Path) -> None:
    page = open_page(context, MEETING, tmp_path).page
    page.locator(".word", has_text="Quux").dblclick()
    page.keyboard.insert_text("Nonsense")
    page.keyboard.press("Escape")
    assert "Ask Mr Quux about the budget" in page.locator("#text").inner_text()
    assert page.locator("#undo").is_disabled()


def test_channel_gets_one_name_everywhere_and_in_every_document(context: BrowserContext, tmp_path: Path) -> None:
    opened = open_page(context, CALL, tmp_path, has_audio=False)
    page = opened.page
    page.locator(".turn .who", has_text="Channel 2").first.click()
    page.keyboard.insert_text("Mrs Smith")
    page.keyboard.press("Enter")
    assert page.locator(".who", has_text="Channel 2").count() == 0
    assert page.locator("#voices .who").all_inner_texts() == ["Channel 1", "Mrs Smith"]
    transcript = read_json(opened.save("json", tmp_path).read_bytes())
    text = render(transcript, ["txt"], has_timestamps=False)["txt"].decode()
    assert "Mrs Smith: Hello. I would like to book a room." in text
    assert "Channel 1: Of course." in text
    word = docx.Document(str(opened.save("docx", tmp_path)))
    assert "Mrs Smith: Hello. I would like to book a room." in [paragraph.text for paragraph in word.paragraphs]


@pytest.mark.parametrize("n_segments", [0, 3])
def test_saved_page_opens_with_the_corrections_and_can_be_corrected_again(
    context: BrowserContext, tmp_path: Path, n_segments: int
) -> None:
    extra = tuple(Segment(61.0 + at / 10, 61.1 + at / 10, f"More {at}.") for at in range(n_segments))
    opened = open_page(context, replace(MEETING, segments=(*MEETING.segments, *extra)), tmp_path, has_audio=False)
    opened.correct("Quux", "</script>")
    again = open_file(context, opened.save("html", tmp_path))
    assert again.errors == []
    assert "Ask Mr </script> about the budget" in again.page.locator("#text").inner_text()
    again.correct("euros", "dollars")
    saved = read_saved(again.save("json", tmp_path))
    assert saved["segments"][2]["text_raw"] == MEETING.segments[2].text
    assert saved["segments"][6]["text"] == "The budget is 1,250,000 dollars, which is more than before."


# Documents


@pytest.mark.parametrize("has_timestamps", [False, True])
@pytest.mark.parametrize(
    "transcript",
    [
        MEETING,
        CALL,
        TALK,
        SILENCE,
        sample_many(60),
        replace(TALK, audio=replace(TALK.audio, is_complete=False)),
        replace(MEETING, calibration=Calibration("2026-01-30T12:00:00.000Z", 1834, 12)),
    ],
    ids=["meeting", "call", "talk", "silence", "many", "cut", "calibrated"],
)
def test_page_saves_the_same_documents_as_scribed(
    context: BrowserContext, tmp_path: Path, transcript: Transcript, *, has_timestamps: bool
) -> None:
    forms = ["txt", "md", "srt", "vtt", "docx", "json"]
    path = tmp_path / "talk.html"
    path.write_bytes(render(transcript, ["html"], has_timestamps=has_timestamps)["html"])
    opened = open_file(context, path)
    expected = render(transcript, forms, has_timestamps=has_timestamps)
    for form in ("txt", "md", "srt", "vtt"):
        assert opened.save(form, tmp_path).read_bytes().decode() == expected[form].decode()
    assert read_json(opened.save("json", tmp_path).read_bytes()) == read_json(expected["json"])
    with zipfile.ZipFile(opened.save("docx", tmp_path)) as saved, zipfile.ZipFile(io.BytesIO(expected["docx"])) as ours:
        assert saved.testzip() is None
        assert {name: saved.read(name) for name in saved.namelist()} == {
            name: ours.read(name) for name in ours.namelist()
        }


def test_corrected_documents_are_those_that_render_writes(context: BrowserContext, tmp_path: Path) -> None:
    opened = open_page(context, MEETING, tmp_path, has_audio=False)
    opened.correct("Quux", "Cooks, the new head of the whole department,")
    opened.correct("Then", "And then")
    opened.page.locator(".word", has_text="صباح").dblclick()
    opened.page.keyboard.press("Control+a")
    opened.page.keyboard.press("Delete")  # all that this voice says
    opened.page.keyboard.press("Enter")
    expected = render(
        read_json(opened.save("json", tmp_path).read_bytes()), ["txt", "md", "srt", "vtt"], has_timestamps=False
    )
    for form, content in expected.items():
        assert opened.save(form, tmp_path).read_bytes().decode() == content.decode()


# Reading


def test_search_counts_marks_and_goes_round(context: BrowserContext, tmp_path: Path) -> None:
    page = open_page(context, MEETING, tmp_path).page
    page.locator("#search").fill("BUDGET")
    assert page.locator("#matches").inner_text() == "1 of 2"
    assert page.evaluate("[CSS.highlights.get('found').size, CSS.highlights.get('found-now').size]") == [1, 1]
    page.keyboard.press("Enter")
    assert page.locator("#matches").inner_text() == "2 of 2"
    page.keyboard.press("Enter")
    assert page.locator("#matches").inner_text() == "1 of 2"
    page.locator("#search").fill("三点")
    assert page.locator("#matches").inner_text() == "1 of 1"
    page.locator("#search").fill("(.*")
    assert page.locator("#matches").inner_text() == "none"


def test_threshold_decides_which_words_are_marked(context: BrowserContext, tmp_path: Path) -> None:
    page = open_page(context, MEETING, tmp_path).page
    assert page.locator(".doubt").all_inner_texts() == ["Quux", "1,250,000"]
    page.locator("#threshold").fill("20")
    assert page.locator(".doubt").count() == 0
    assert page.locator("#doubts").inner_text() == "0 doubtful words"
    page.locator("#threshold").fill("100")
    assert page.locator(".doubt").count() == sum(len(segment.words) for segment in MEETING.segments)


def test_gaps_flags_and_what_is_missing_are_shown(context: BrowserContext, tmp_path: Path) -> None:
    opened = open_page(context, MEETING, tmp_path)
    page = opened.page
    assert "0:02.00 of speech is not in this text" in page.locator("header").inner_text()
    assert "[not transcribed, 00:00:30 to 00:00:32" in page.locator(".mark").inner_text()
    assert page.locator(".flag").all_inner_texts() == ["second try"]
    page.locator(".mark .at").click()
    opened.until("document.getElementById('audio').currentTime >= 30")


def test_arabic_runs_from_right_to_left_and_each_language_is_named(context: BrowserContext, tmp_path: Path) -> None:
    page = open_page(context, MEETING, tmp_path).page
    arabic = page.locator(".words", has_text="صباح")
    assert arabic.evaluate("p => [getComputedStyle(p).direction, p.lang]") == ["rtl", "ar"]
    first, last = (arabic.locator(".word").nth(at).bounding_box() for at in (0, -1))
    assert first is not None
    assert last is not None
    assert first["x"] > last["x"]
    chinese = page.locator(".words", has_text="今天")
    assert chinese.evaluate("p => [getComputedStyle(p).direction, p.lang]") == ["ltr", "zh"]
    english = page.locator(".words", has_text="Good morning")
    assert english.get_attribute("lang") == "en"


def test_names_and_texts_with_markup_stay_text(context: BrowserContext, tmp_path: Path) -> None:
    path = tmp_path / "hostile.html"
    path.write_bytes(render(HOSTILE, ["html"], has_timestamps=False)["html"])
    opened = open_file(context, path)
    page = opened.page
    assert page.title() == HOSTILE.source.name.removesuffix(".wav").rpartition("/")[2]
    assert page.locator("img, b").count() == 0
    assert page.locator("script").count() == 3
    text = page.locator("#text").inner_text()
    for segment in HOSTILE.segments:
        assert " ".join(segment.text.split()) in " ".join(text.split())
    page.locator(".word", has_text="</script>").first.dblclick()
    page.keyboard.insert_text("<svg onload=alert(7)>")
    page.keyboard.press("Enter")
    page.locator("#voices button").click()
    page.keyboard.insert_text("<b onclick=alert(8)>x</b>")
    page.keyboard.press("Enter")
    again = open_file(context, opened.save("html", tmp_path))
    assert again.page.locator("img, b, svg[onload]").count() == 0
    assert "<svg onload=alert(7)>" in again.page.locator("#text").inner_text()
    assert opened.errors == again.errors == []


def test_page_can_be_read_where_scripts_do_not_run(browser: object, tmp_path: Path) -> None:
    path = tmp_path / "talk.html"
    path.write_bytes(render(MEETING, ["html"], has_timestamps=False)["html"])
    context = browser.new_context(java_script_enabled=False)  # type: ignore[attr-defined]  # playwright's Browser
    page = context.new_page()
    page.goto(path.as_uri())
    text = page.locator("body").inner_text()
    assert "王小明: 今天下午三点" in text
    assert "[not transcribed, 00:00:30" in text
    assert page.locator("#player").is_hidden()
    context.close()


def test_print_shows_all_text_and_no_tools(context: BrowserContext, tmp_path: Path) -> None:
    opened = open_page(context, sample_many(400), tmp_path, has_audio=False)
    page = opened.page
    assert page.locator(".word").count() < 3000  # only what is near the screen
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#tools").is_hidden()
    assert page.locator("#player").is_hidden()
    assert page.locator(".doubt").count() == 10
    assert "Number 399." in page.locator("#text").inner_text()


def test_paragraphs_far_from_the_screen_become_words_when_they_come_near(
    context: BrowserContext, tmp_path: Path
) -> None:
    opened = open_page(context, sample_many(7200), tmp_path, has_audio=False)
    page = opened.page
    assert page.locator(".word").count() < 3000
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.locator(".word", has_text="7199").wait_for()
    page.locator(".word", has_text="7199").click()
    assert opened.now() == pytest.approx(5.0 * 7199 + 4.6 * 13 / 14, abs=0.5)


@pytest.mark.parametrize("size", [(1280, 900), (375, 740)], ids=["desk", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_has_no_accessibility_fault_that_axe_finds(
    context: BrowserContext, tmp_path: Path, scheme: str, size: tuple[int, int]
) -> None:
    from axe_playwright_python.sync_playwright import Axe  # noqa: PLC0415  # `make test` collects this file without it

    opened = open_page(context, MEETING, tmp_path, has_audio=False)
    page = opened.page
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.wait_for_selector("#missing", state="visible")

    def check(state: str) -> None:
        found = Axe().run(page).response["violations"]
        faults = [(each["id"], node["html"], node["failureSummary"]) for each in found for node in each["nodes"]]
        assert faults == [], f"{scheme}, {size}, {state}"

    check("as opened")
    page.locator(".word", has_text="Quux").click()
    page.locator("#search").fill("budget")
    check("with a search")
    page.locator("#save summary").click()
    check("with an open menu")
    page.keyboard.press("Escape")
    page.locator(".word", has_text="points").dblclick()
    check("with an editor")
    page.keyboard.press("Escape")
    page.locator("#show-help").click()
    check("with help")


def test_page_is_as_wide_as_a_phone(context: BrowserContext, tmp_path: Path) -> None:
    page = open_page(context, MEETING, tmp_path).page
    page.set_viewport_size({"width": 320, "height": 640})
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
