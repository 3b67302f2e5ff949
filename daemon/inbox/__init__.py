"""From a folder full of files to the paths of recordings that have fully arrived."""

from daemon.inbox.events import WatchShortage
from daemon.inbox.names import (
    CLAIM_FOLDER,
    ERROR_SUFFIX,
    HOTWORDS_SUFFIX,
    is_companion,
    is_temporary,
)
from daemon.inbox.scanning import Inbox, Scan
from daemon.inbox.settling import Arrival, Arriving, fingerprint_of
from daemon.inbox.walk import FolderFault

__all__ = [
    "CLAIM_FOLDER",
    "ERROR_SUFFIX",
    "HOTWORDS_SUFFIX",
    "Arrival",
    "Arriving",
    "FolderFault",
    "Inbox",
    "Scan",
    "WatchShortage",
    "fingerprint_of",
    "is_companion",
    "is_temporary",
]
