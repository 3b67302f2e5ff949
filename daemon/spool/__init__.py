"""Every path of a recording and every change of its place: claim, deliver, set aside, recover."""

from daemon.spool.claims import Claims
from daemon.spool.delivery import Delivery
from daemon.spool.failures import Failures, is_error_note
from daemon.spool.places import Places
from daemon.spool.recovery import conclude, find_unfinished
from daemon.spool.retention import Retention

__all__ = ["Claims", "Delivery", "Failures", "Places", "Retention", "conclude", "find_unfinished", "is_error_note"]
