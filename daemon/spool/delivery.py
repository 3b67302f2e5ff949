"""Delivering documents, then the audio: nothing overwritten, incomplete or duplicated.

The order of steps makes this safe. Names are reserved, together with the sha256 of each document, in the journal and,
in case that is lost, in the note next to the claimed audio. Each document is written and synced under a temporary name
and then published, JSON last. The journal commits; then the audio moves. After a crash, the existing files show how far
it came.
"""

from __future__ import annotations

import json
import threading
from contextlib import ExitStack, contextmanager, suppress
from itertools import count, islice
from typing import TYPE_CHECKING, Final

from daemon.documents import RESERVED_ENDINGS
from daemon.errors import ChangedError, ScribedError
from daemon.host import files, moving
from daemon.host.folders import Folder
from daemon.inbox import fingerprint_of
from daemon.journal.records import ArchivedFile, FileStamp, Reservation, Result, Stamps
from daemon.spool.claims import remove_claim
from daemon.spool.names import hotwords_name, numbered_stem, outcome_names
from daemon.spool.notes import Note, PlannedDelivery, write_note

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from daemon.host.moving import Place
    from daemon.job import Fingerprint, Job
    from daemon.spool.context import Context
    from daemon.spool.second_look import SecondLooks


# Transcripts of one name that are searched for a job's id: lost journals are rare, and so are many of one name.
_MAX_LOOKED_AT: Final = 100
_MAX_JSON_BYTES: Final = 64 << 20
_NOT_ARCHIVED: Final = "The recording cannot be moved to processed"


class Delivery:
    """The part of the spool that delivers transcripts and moves their audio to processed."""

    def __init__(self, context: Context, looks: SecondLooks) -> None:
        self._context = context
        self._looks = looks
        self._reserving = threading.Lock()  # looking for a free stem and reserving it is one step

    def deliver(
        self, job: Job, documents: Mapping[str, files.Content], result: Result, heard: Fingerprint | None = None
    ) -> Reservation:
        """Publish documents (by format, in their order), commit, move the audio; return its names.

        Args:
            job: the job.
            documents: what to publish.
            result: facts for the history.
            heard: the fingerprint of the recording that was transcribed; None if it need not be compared.

        Raises:
            ChangedError: the recording has changed since; nothing was done.
            NoPermissionError, TransientError: it can be tried again; a second call completes the first.
        """
        self.roll_back(job)  # leftovers of an interrupted call
        with ExitStack() as held:
            with files.explained("The claimed recording cannot be found", self._context.roots_of(job.job_id).inbox):
                claims = held.enter_context(self._context.claims_of(job.job_id))
                claim = held.enter_context(claims.descend(job.job_id))
                if heard is not None and fingerprint_of(claim.lstat(job.name)) != heard:
                    raise ChangedError("The recording changed while it was being transcribed.")
            planned = self._publish_all(job, claim, documents, result)
            self._commit(job, planned.reservation, planned.stamps.audio, planned.documents)
            if not self._looks.holds(job):
                self._archive(job, claims, claim, planned.reservation, planned.stamps)
        return planned.reservation

    def _publish_all(
        self, job: Job, claim: Folder, documents: Mapping[str, files.Content], result: Result
    ) -> PlannedDelivery:
        """Reserve names and publish the documents under them."""
        roots = self._context.shared.roots
        with files.explained("The transcript cannot be delivered", roots.outbox):
            if self._context.roots_of(job.job_id).outbox != roots.outbox:  # changed before anything was reserved
                self._use_current_outcomes(job)
            while True:
                folder = self._context.outcome_folder(job)
                with self._context.shared.outcome(roots.outbox, folder, roots.inbox) as outbox:
                    self._looks.withdraw(job, outbox)
                    planned = self._reserve(job, claim, outbox, documents, result)
                    try:
                        self._publish(job, outbox, planned.reservation, documents)
                    except FileExistsError:  # another file took the name before publishing
                        self.roll_back(job)
                        continue
                return planned

    def finish(self, job: Job, *, is_resumed: bool = False) -> None:
        """After the commit: move the audio (and its hotwords) to processed.

        Args:
            job: whose audio.
            is_resumed: an interrupted call may have left a temporary file.
        """
        journal = self._context.journal
        reservation = journal.reservation(job.job_id)
        if reservation is None:
            raise LookupError(f"{job.job_id} was committed without a reservation")
        with ExitStack() as held:
            with files.explained(_NOT_ARCHIVED, self._context.roots_of(job.job_id).processed):
                claims = held.enter_context(self._context.claims_of(job.job_id))
                claim = held.enter_context(_opened(claims, job.job_id))
            self._archive(job, claims, claim, reservation, journal.stamps(job.job_id), is_resumed=is_resumed)

    def _archive(  # noqa: PLR0913  # a claim, and where it goes
        self,
        job: Job,
        claims: Folder,
        claim: Folder | None,
        reservation: Reservation,
        stamps: Stamps,
        *,
        is_resumed: bool = False,
    ) -> None:
        roots = self._context.roots_of(job.job_id)
        with (
            files.explained(_NOT_ARCHIVED, roots.processed),
            self._context.shared.outcome(roots.processed, reservation.folder, roots.inbox) as processed,
        ):
            if is_resumed:
                processed.sweep(job.job_id)
                processed.sync()  # what was moved before the interruption may not have been
            mover = _Archiver(claim, processed, job.job_id, is_resumed=is_resumed)
            # Hotwords go first: once the audio is gone, everything has been moved.
            hotwords = mover.archive(
                hotwords_name(job.name), free_hotwords_names(reservation.audio_name), stamps.hotwords
            )
            names = (name for _, name in outcome_names(reservation.audio_name))
            audio = mover.archive(job.name, names, stamps.audio)
            # Not synced: an empty claim that a power cut brings back is removed at the next start.
            remove_claim(claims, job.job_id, is_durable=False)
        self._context.journal.finish(job.job_id, audio, hotwords)
        self._context.forget(job.job_id)

    def confirm(self, job: Job) -> bool:
        """Commit a complete delivery that a crash interrupted before the commit; return whether there was one.

        The last document is published when all others are, so it alone is looked for: the others
        may have been fetched by now.
        """
        journal = self._context.journal
        documents, reservation = journal.documents(job.job_id), journal.reservation(job.job_id)
        if not documents or reservation is None:
            return False
        last = list(documents)[-1]
        with self._reserved_folder(job) as outbox:
            if outbox is None or not outbox.has_sha256(last, documents[last]):
                return False
            outbox.sweep(job.job_id)
            outbox.sync()  # the crash may have come before this
        self._commit(job, reservation, journal.stamps(job.job_id).audio, documents)
        return True

    def roll_back(self, job: Job) -> None:
        """Remove what was published for a job that was not committed: its own bytes, no others.

        Raises:
            NoPermissionError, TransientError: it can be tried again.
        """
        if job.job_id in self._context.own and job.job_id not in self._context.reserved:
            return  # nothing was published for it
        documents = self._context.journal.documents(job.job_id)
        if not documents:
            return
        with self._reserved_folder(job) as outbox:
            if outbox is None:
                return
            outbox.sweep(job.job_id)
            for name, digest in documents.items():
                if outbox.has_sha256(name, digest):
                    outbox.unlink(name)

    def find_delivered(self, job: Job) -> PlannedDelivery | None:
        """Look for a JSON document with the job's id: the proof of delivery where the note is lost as well."""
        relative = self._context.outcome_folder(job)
        with (
            suppress(OSError, ScribedError),
            Folder.open(self._context.roots_of(job.job_id).outbox) as root,
            root.descend(relative) as outbox,
        ):
            for stem, audio_name in islice(outcome_names(job.name), _MAX_LOOKED_AT):
                result = _result_in(outbox, f"{stem}.json", job.job_id)
                if result is not None:
                    return PlannedDelivery(Reservation(relative, stem, audio_name), {}, result)
        return None

    def _commit(
        self, job: Job, reservation: Reservation, audio: FileStamp | None, documents: Mapping[str, str]
    ) -> None:
        if audio is not None:
            self._looks.schedule(job, audio.n_bytes, documents)
        self._context.commit(job, reservation, documents)

    def _use_current_outcomes(self, job: Job) -> None:
        """Deliver into the folders that are configured now; the claim stays where it is."""
        known, current = self._context.roots_of(job.job_id), self._context.shared.roots
        roots = type(known)(known.inbox, current.outbox, current.processed, current.failed)
        self._context.set_roots(job.job_id, roots)

    def _reserve(
        self, job: Job, claim: Folder, outbox: Folder, documents: Mapping[str, files.Content], result: Result
    ) -> PlannedDelivery:
        """Record names that no one else has, before anything is written."""
        journal, roots = self._context.journal, self._context.roots_of(job.job_id)
        folder = self._context.outcome_folder(job)
        digests = {ending: files.sha256_of_content(text) for ending, text in documents.items()}
        stamps = stamps_of(claim, job.name)
        with self._reserving, Folder.open(roots.processed) as root, _opened(root, folder) as processed:
            reservation = self._find_free(job, folder, outbox, processed)
            named = {f"{reservation.stem}.{ending}": digest for ending, digest in digests.items()}
            self._context.reserved.add(job.job_id)
            journal.reserve(job.job_id, reservation, named, result, stamps)
        planned = PlannedDelivery(reservation, named, result, stamps)
        write_note(claim, Note(job, roots, planned))
        journal.settle()
        return planned

    def _find_free(self, job: Job, folder: str, outbox: Folder, processed: Folder | None) -> Reservation:
        others = [other for other in self._context.journal.reserved_by_others(job.job_id) if other.folder == folder]
        stems = {other.stem for other in others}
        audio_names = {other.audio_name for other in others}
        for stem, audio_name in outcome_names(job.name):
            if stem in stems or audio_name in audio_names:
                continue
            if any(outbox.exists(f"{stem}.{ending}") for ending in RESERVED_ENDINGS):
                continue
            if processed is None or not processed.exists(audio_name):
                return Reservation(folder, stem, audio_name)
        raise AssertionError("there are names without end")

    def _publish(
        self, job: Job, outbox: Folder, reservation: Reservation, documents: Mapping[str, files.Content]
    ) -> None:
        mode = self._context.output_of(job.job_id).mode_bits
        written = [
            (outbox.write_temporary(text, mode, job.job_id), f"{reservation.stem}.{ending}")
            for ending, text in documents.items()
        ]
        *others, (last, last_name) = written
        for temporary, name in others:
            outbox.publish(temporary, name, is_durable=False)
        if others:
            outbox.sync()
        outbox.publish(last, last_name)

    @contextmanager
    def _reserved_folder(self, job: Job) -> Iterator[Folder | None]:
        """Open the folder in the outbox where a job's documents are; None where it is gone."""
        reservation = self._context.journal.reservation(job.job_id)
        root = self._context.roots_of(job.job_id).outbox
        with (
            files.explained("An unfinished delivery cannot be completed or removed", root),
            Folder.open(root) as top,
            _opened(top, reservation.folder if reservation else "") as outbox,
        ):
            yield outbox


class _Archiver:
    """Moves the files of one claim to the first free names in a folder of processed or failed.

    Args:
        claim: the folder of the claim, None where it is gone: everything was moved before a crash.
        target: where they go.
        job_id: whose files.
        is_resumed: an interrupted call may have moved or copied some of them.
    """

    def __init__(self, claim: Folder | None, target: Folder, job_id: str, *, is_resumed: bool) -> None:
        self._claim = claim
        self._target = target
        self._job_id = job_id
        self._is_resumed = is_resumed

    def archive(self, name: str, names: Iterator[str], planned: FileStamp | None) -> ArchivedFile | None:
        """Move a file and return how it is archived; what a crash has moved is known by its planned stamp."""
        if planned is None and not self._is_resumed:  # there was none a moment ago
            return None
        stamp = stamp_of(self._claim, name) if self._claim is not None else None
        moved = None
        if self._claim is not None:
            place = (self._claim, name)
            moved = move_to_free_name(place, self._target, names, self._job_id, is_resumed=self._is_resumed)
        if moved is None and planned is not None:
            stamp = planned
            candidates = islice(names, _MAX_LOOKED_AT)
            moved = next((new for new in candidates if planned.matches(stamp_of(self._target, new))), None)
        return None if moved is None or stamp is None else ArchivedFile(moved, stamp)


def free_hotwords_names(audio_name: str) -> Iterator[str]:
    """Yield names for the hotwords of archived audio, the simplest first, without end."""
    name = hotwords_name(audio_name)
    yield name
    for number in count(2):
        yield numbered_stem(name, number, 0)


def move_to_free_name(
    source: Place, target: Folder, names: Iterable[str], tag: str, *, is_resumed: bool = True
) -> str | None:
    """Move a file to the first of these names that is free and return it; None if it was moved before.

    Args:
        source: where it is.
        target: the folder it goes to.
        names: that it may have there.
        tag: for the temporary name of a copy.
        is_resumed: whether an interrupted call may have copied it.
    """
    folder, name = source
    if not folder.exists(name):
        return None
    move = moving.resume_move if is_resumed else moving.move
    for new_name in names:
        try:
            move(source, (target, new_name), tag)
        except FileExistsError:
            continue
        return new_name
    return None


def stamp_of(folder: Folder, name: str) -> FileStamp | None:
    """Return the stamp of a file, None where it is gone."""
    facts = folder.find(name)
    return None if facts is None else FileStamp(facts.st_size, facts.st_mtime_ns)


def stamps_of(claim: Folder, audio_name: str) -> Stamps:
    """Return the stamps of a claimed recording and of its hotwords."""
    return Stamps(stamp_of(claim, audio_name), stamp_of(claim, hotwords_name(audio_name)))


@contextmanager
def _opened(root: Folder, relative: str) -> Iterator[Folder | None]:
    """Open a sub-folder, or yield None where there is none."""
    try:
        folder = root.descend(relative)
    except FileNotFoundError:
        yield None
        return
    with folder:
        yield folder


def _result_in(outbox: Folder, name: str, job_id: str) -> Result | None:
    """Return what a JSON document says for the history, or None if it is not this job's."""
    try:
        document = json.loads(outbox.read(name, _MAX_JSON_BYTES))
        if document["job_id"] != job_id:
            return None
        audio_s, wall_s = float(document["audio"]["duration_s"]), float(document["processing"]["wall_s"])
        source = document.get("source", {})
        known = (value if isinstance(value := source.get(key), str) else None for key in ("sha256", "duplicate_of"))
        return Result(audio_s, wall_s, document["complete"] is True, *known)
    # Members can write such a file.
    except (ScribedError, OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
