"""Who may ask: host, origin, token and cookie, a token in every form, and the headers of every answer."""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode, urlsplit

_LOCAL = ("localhost", "127.0.0.1", "::1")
#: Nothing from elsewhere, nothing inline: what a name in a workspace says can never run.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Refused(Exception):
    """A request that is not answered, and why."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


def is_local(host: str) -> bool:
    """Tell whether only this machine can reach an address.

    Examples
    --------
    >>> is_local("localhost"), is_local("127.0.0.5"), is_local("0.0.0.0")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def cookie_name(host: str) -> str:
    """Return the name of the cookie; browsers send a cookie to every port of a machine, so it holds the port.

    Examples
    --------
    >>> cookie_name("127.0.0.1:8423"), cookie_name("[::1]")
    ('nirs_store_page_8423', 'nirs_store_page')
    """
    port = re.search(r":(\d{1,5})$", host)
    return f"nirs_store_page_{port[1]}" if port else "nirs_store_page"


def without_token(path: str, query: Iterable[tuple[str, str]]) -> str:
    """Return where to go once the token has come: a path of this server, whatever was asked for.

    Examples
    --------
    >>> without_token("//evil.example/", [("token", "T"), ("q", "pls")])
    '/evil.example/?q=pls'
    """
    # Browsers take // and /\\ at the beginning for the name of another server.
    left = urlencode([(name, value) for name, value in query if name != "token"])
    return quote("/" + path.lstrip("/\\"), safe="/@:") + (f"?{left}" if left else "")


@dataclass
class Guard:
    """The rules of one server."""

    host: str = "127.0.0.1"
    token: str = ""
    form_token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    session: str = field(default_factory=lambda: secrets.token_urlsafe(24))

    def check(self, headers: Mapping[str, str], cookies: Mapping[str, str], given: str, method: str) -> bool:
        """Admit a request; true where it brought the token in its address, and gets a cookie instead."""
        host = headers.get("host", "")
        if not self._known_host(host):
            raise Refused(421, "This page answers only to its own address; open the one that it printed.")
        _check_origin(headers, host, method)
        if method not in ("GET", "HEAD", "POST"):
            raise Refused(405, "This page answers GET and POST.")
        if not self.token:
            return False
        if hmac.compare_digest(cookies.get(cookie_name(host), "").encode(), self.session.encode()):
            return False
        bearer = headers.get("authorization", "")
        brought = given or (bearer[7:] if bearer.lower().startswith("bearer ") else "")
        if hmac.compare_digest(brought.encode(), self.token.encode()):
            return bool(given)
        raise Refused(401, "This page needs its token; open the address that it printed when it was started.")

    def check_form(self, brought: str) -> None:
        """Refuse a POST whose form does not come from this page."""
        if not hmac.compare_digest(brought.encode(), self.form_token.encode()):
            raise Refused(
                403, "This form is out of date, or not of this page; nothing was done. Reload the page."
            )

    def _known_host(self, header: str) -> bool:
        try:
            name = (urlsplit(f"//{header}").hostname or "").lower()
        except ValueError:
            return False
        if name in _LOCAL or name == self.host.strip("[]").lower():
            return True
        if is_local(self.host):
            return False
        # Numbers cannot be rebound to another address, and the machine's own names are its own.
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in {socket.gethostname().lower(), socket.getfqdn().lower()}
        return True


def is_foreign(headers: Mapping[str, str]) -> bool:
    """Tell whether a page of another site leads here; the user's own link or bookmark is of none."""
    return headers.get("sec-fetch-site") in ("cross-site", "same-site")


def _check_origin(headers: Mapping[str, str], host: str, method: str) -> None:
    """Refuse what another page sends: a link from there may be followed, nothing may be fetched or posted."""
    origin = headers.get("origin")
    followed = method == "GET" and headers.get("sec-fetch-mode") == "navigate"
    if (is_foreign(headers) and not followed) or (
        origin is not None and urlsplit(origin).netloc.lower() != host.lower()
    ):
        raise Refused(403, "This request comes from another page; nothing was done.")
