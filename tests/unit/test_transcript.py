from __future__ import annotations

from daemon.transcript import (
    Coverage,
    Gap,
    ModelIdentity,
    Processing,
    Receipt,
    Segment,
    Source,
    Transcript,
)


def make(*segments: Segment, is_read: bool = True, gaps: tuple[Gap, ...] = ()) -> Transcript:
    return Transcript(
        job_id="1",
        source=Source("talk.wav", "talk.wav", "0" * 64, 1, "2026-01-31T09:30:00Z"),
        audio=Receipt(60.0, 44_100, 2, "pcm_s16le", -6.0, 3.0, 0.0, is_complete=is_read),
        model=ModelIdentity("demo", "0" * 64, "float32", "cpu"),
        coverage=Coverage(60.0, 50.0, 50.0, gaps),
        processing=Processing(1, "", "", 1.0, 60.0),
        segments=segments,
    )


def test_language_is_the_one_spoken_longest() -> None:
    transcript = make(
        Segment(0, 1, "Ja.", "German"),
        Segment(1, 2, "Ja.", "German"),
        Segment(2, 10, "Thank you very much.", "English"),
        Segment(10, 50, "", "French"),
        Segment(50, 60, "mumbling", None),
    )
    assert transcript.language == "English"
    assert transcript.text == "Ja. Ja. Thank you very much. mumbling"
    assert make().language is None


def test_complete_means_all_of_the_recording_and_all_of_its_speech() -> None:
    assert make().is_complete
    assert not make(is_read=False).is_complete
    assert not make(gaps=(Gap(1, 2, "x"),)).is_complete
