"""Damaged and hostile recordings: each ends in audio or a reason, and no other file is opened."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.faults.fuzz import fuzz, make_good_files
from tests.media import speak

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.frontend import FrontEnd

N_RUNS = 200  # `make fuzz` does 2,000


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_good_files(tmp_path_factory.mktemp("good"))


def test_mutated_recordings_end_in_audio_or_in_a_reason(good: list[Path], front_end: FrontEnd, tmp_path: Path) -> None:
    outcomes = fuzz(front_end, good, tmp_path, range(10_000, 10_000 + N_RUNS))
    assert outcomes.total() == N_RUNS
    assert outcomes["whole"] > 0
    assert outcomes["damaged, and said so"] > 0


PREPARE_ALL = """
import sys
from pathlib import Path
from daemon.config import Preprocess
from daemon.errors import JobError
from daemon.frontend import FrontEnd

folder = Path(sys.argv[1])
front_end = FrontEnd(folder)
for path in sorted(folder.glob("hostile*")):
    try:
        front_end.prepare(path, Preprocess(), "energy").close()
        print(path.name, "audio")
    except JobError as error:
        print(path.name, error.what)
front_end.close()
"""


def write_hostile(folder: Path, good: list[Path], secret: Path, url: str) -> None:
    """Write files that name other files, in every way that FFmpeg may follow, under the names of recordings."""
    n_written = 0
    manifest = (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet'
        ' mimeType="audio/wav"><Representation id="1"><BaseURL>{}</BaseURL></Representation></AdaptationSet>'
        "</Period></MPD>"
    )
    port = url.rpartition(":")[2].partition("/")[0]
    for entry in (secret.name, str(secret), secret.as_uri(), url):
        contents = [
            f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{entry}\n#EXT-X-ENDLIST\n",
            f"ffconcat version 1.0\nfile {entry}\n",
            f"file '{entry}'\n",
            f"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio {port} RTP/AVP 0\r\n",
            manifest.format(entry),
            f"[playlist]\nFile1={entry}\n",
            f"RIFF\0\0\0\0WAVE#EXTM3U\n#EXTINF:9,\n{entry}\n",
        ]
        for content in contents:
            for ending in ("mp3", "wav", "m4a"):
                (folder / f"hostile-{n_written}.{ending}").write_bytes(content.encode())
                n_written += 1
    # A QuickTime film may have its audio in another file.
    film = next(path for path in good if path.suffix == ".mov").read_bytes()
    outside = film.replace(b"url \0\0\0\1", b"alis\0\0\0\0").replace(b"alis\0\0\0\1", b"alis\0\0\0\0")
    assert outside != film
    (folder / "hostile-film.mov").write_bytes(outside)
    for path in good:
        (folder / f"hostile-not-{path.name}").write_bytes(path.read_bytes())


def test_decoding_opens_no_other_file(good: list[Path], tmp_path: Path) -> None:
    secret = speak(tmp_path / "secret.wav")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/secret.wav"
        write_hostile(tmp_path, good, secret, url)
        trace = tmp_path / "trace"
        calls = "trace=%file,%network,recvmsg,process,io_uring_setup"
        command: list[str | Path] = ["strace", "-f", "-q", "-s", "256", "-e", calls, "-o", trace]
        command += [sys.executable, "-c", PREPARE_ALL, tmp_path]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
        with pytest.raises(BlockingIOError):
            server.accept()
    said = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert {said[f"hostile-not-{path.name}"] for path in good} == {"audio"}
    assert "audio" not in {said[name] for name in said if re.fullmatch(r"hostile-\d+\..*", name)}
    lines = trace.read_text().splitlines()
    decoder = next(line.split()[0] for line in lines if "execve(" in line and "daemon.frontend.worker_process" in line)
    own = [line for line in lines if line.split()[0] == decoder]
    first = next(index for index, line in enumerate(own) if "SCM_RIGHTS" in line)
    # The daemon passes the recording as an open file; from then on the process opens nothing, not even a library.
    opened = [line for line in own[first:] if re.search(r" (open\w*|socket|connect|execve\w*|clone3?|v?fork)\(", line)]
    assert [line for line in opened if "= -1 EPERM" not in line] == []
    assert not any("secret.wav" in line for line in lines if "execve(" not in line)
