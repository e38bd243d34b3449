"""The clock: kept right by somebody, and near the managers'; and the certificate's dates.

The managers' joining listener answers anybody, with the date in its header: enough to see a
skew that matters (certificates become valid in the future).
"""

import http.client
import ssl
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

from shoal.cli.doctor.finding import Finding, Ground, ok, problem, warning
from shoal.common.clock import SystemClock
from shoal.common.identity import Identity, IdentityStore
from shoal.common.join_wire import ROOTS_PATH, joining_address
from shoal.common.known_managers import load_managers
from shoal.common.tls import anonymous_client_context
from shoal.model.errors import Internal, NotFound

TOLERATED = timedelta(seconds=2)
GRAVE = timedelta(seconds=60)
_SECONDS = 3.0


def skew(ground: Ground) -> Iterable[Finding]:
    """This host's clock against each manager's."""
    found = _identity(ground)
    if not isinstance(found, Identity):
        return
    context = anonymous_client_context(found.roots_pem)
    context.check_hostname = False  # any manager's certificate of our own root will do
    for manager in load_managers(ground.config.state):
        host, port = joining_address(manager)
        try:
            ahead = _ahead(host, port, context)
        except (OSError, http.client.HTTPException, ValueError) as error:
            yield warning(
                f"manager {manager} does not tell its time: {error}",
                f"see whether {host} is up and {port}/tcp open from here",
            )
        else:
            yield judge_skew(manager, ahead)


def judge_skew(manager: str, ahead: timedelta) -> Finding:
    """How far the manager's clock is ahead of ours."""
    apart = abs(ahead)
    if apart <= TOLERATED:
        return ok(f"the clock agrees with that of manager {manager}")
    side = "behind" if ahead > timedelta() else "ahead of"
    says = f"this clock is {apart.total_seconds():.0f} s {side} that of manager {manager}"
    helps = "have both kept by NTP (chrony or systemd-timesyncd)"
    return problem(says, helps) if apart > GRAVE else warning(says, helps)


def certificate(ground: Ground) -> Iterable[Finding]:
    """The node's certificate: there, and valid now."""
    found = _identity(ground)
    if isinstance(found, Finding):
        return [found]
    return [judge_dates(found.not_before, found.not_after, SystemClock().now())]


def judge_dates(begins: datetime, ends: datetime, now: datetime) -> Finding:
    """Whether a certificate of these dates is good now."""
    if now < begins:
        return problem(
            f"the node's certificate is valid from {begins.isoformat()}: the clock is late",
            "set the clock right",
        )
    if now >= ends:
        return problem(
            f"the node's certificate expired at {ends.isoformat()}",
            "`docker swarm leave --force`, then join again",
        )
    return ok(f"the node's certificate is valid until {ends.isoformat()}")


def _identity(ground: Ground) -> Identity | Finding:
    try:
        return IdentityStore(Path(ground.config.state) / "identity").load()
    except NotFound:
        return ok("this host is in no cluster")
    except Internal as error:
        return problem(str(error), "restore the state directory from a backup, or join again")


def _ahead(host: str, port: int, context: ssl.SSLContext) -> timedelta:
    clock = SystemClock()
    connection = http.client.HTTPSConnection(host, port, timeout=_SECONDS, context=context)
    try:
        connection.request("GET", ROOTS_PATH)
        asked = clock.now()
        answer = connection.getresponse()
        middle = asked + (clock.now() - asked) / 2
        told = parsedate_to_datetime(answer.headers["Date"] or "")
    finally:
        connection.close()
    # The header has whole seconds, cut off: half of one is the best guess.
    return told.astimezone(UTC) + timedelta(seconds=0.5) - middle
