"""Every path of a recording and every change of its place: claim, deliver, fail, retry, recover."""

from daemon.spool.claims import Claim
from daemon.spool.failures import Retried
from daemon.spool.private import LOCK_NAME, PRIVATE_FOLDER
from daemon.spool.shared import SharedFolders
from daemon.spool.spool import Spool

__all__ = ["LOCK_NAME", "PRIVATE_FOLDER", "Claim", "Retried", "SharedFolders", "Spool"]
