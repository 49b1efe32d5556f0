"""What time it is as far as the workspace can tell, for retention that runs unattended.

Rows are dated by the clocks of the machines that wrote them. A clock may be wrong: one day it says next year, and
everything is too old at once. What one session says is therefore believed when others bear it out.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from datetime import datetime, timedelta

from nirs_store.db.database import Connection
from nirs_store.ids import now_naive
from nirs_store.values import storable

#: A row that is dated so much later than now was written by a clock that was wrong.
AHEAD = timedelta(hours=1)
# Sessions are entered in the order in which they began; a date that goes back further than this is not a delay.
_BACK = timedelta(days=1)
# After a pause longer than this, new dates are believed once they span as much themselves.
_PAUSE = timedelta(days=7)
_SESSIONS = 50
# The clock of the process, which cannot be set: how long a session that never ends has been seen to run.
_BEGAN = time.monotonic()


@dataclass(frozen=True)
class Clock:
    """What the clock of this machine says, what is believed of it, and why it may be wrong altogether."""

    says: datetime
    believed: datetime
    contradiction: str | None


def read_clock(con: Connection, session_id: str) -> Clock:
    """Compare this machine's clock with when the latest sessions began."""
    says = now_naive()
    host = storable(socket.gethostname())
    rows = con.execute(
        "SELECT host, started_at, ended_at, session_id FROM (SELECT *, rowid AS place FROM sessions "
        "ORDER BY rowid DESC LIMIT $n) ORDER BY place",
        {"n": _SESSIONS},
    ).fetchall()
    began = next((row[1] for row in rows if row[3] == session_id), says)
    others = [(str(row[0]), row[1], row[2]) for row in rows if row[3] != session_id]
    contradiction = _contradiction([*((name, at) for name, at, _ in others), (host, says)])
    moments = [moment for _, start, end in others for moment in (start, end) if moment and moment <= says]
    ran = min(timedelta(seconds=time.monotonic() - _BEGAN), max(says - began, timedelta(0)))
    if ran >= _PAUSE or not moments:
        # Without any other session all rows are this one's, dated by the clock that is asked.
        moments += [began, began + ran]
    return Clock(says, min(says, _borne_out(sorted(moments))), contradiction)


def _contradiction(sessions: list[tuple[str, datetime]]) -> str | None:
    latest = sessions[0]
    for host, moment in sessions[1:]:
        if moment < latest[1] - _BACK:
            return (
                f"a session on {latest[0]} began on {latest[1]:%Y-%m-%d %H:%M}, and a later one on {host} on "
                f"{moment:%Y-%m-%d %H:%M} (UTC)"
            )
        latest = max(latest, (host, moment), key=lambda each: each[1])
    return None


def _borne_out(moments: list[datetime]) -> datetime:
    """Return the latest moment that does not follow a long pause all alone."""
    end = moments[-1]
    start = end
    for moment in reversed(moments):
        if start - moment > _PAUSE and end - start < _PAUSE:
            end = moment  # what came after the pause is not borne out yet
        start = moment
    return end
