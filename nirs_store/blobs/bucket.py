"""Object stores: which one an address names, how it is reached, and what its answers mean.

Credentials come from the environment, a profile or the machine's role, and are asked for by the object store library
at each use: none of them passes through here, so none can be stored, pickled or printed.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from nirs_store.addresses import without_secrets
from nirs_store.blobs.durable import Buffer
from nirs_store.errors import InvalidInput, SharedStoreUnreachable, did_you_mean

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ObjectStore


# -- Addresses.


_SCHEMES = {
    "s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "az", "azure": "az", "file": "file",
}  # fmt: skip
_OPTIONS = {"s3": ("allow_http", "endpoint", "region"), "gs": (), "az": ("account",)}
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
_PART = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._=@ -]+")
_EXAMPLES = "s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, file:///folder"


@dataclass(frozen=True)
class Place:
    """A place for blobs, without secrets."""

    scheme: str
    """One of s3, gs, az, file."""
    bucket: str
    """Empty for a folder."""
    prefix: str
    """Parts joined by slashes, without one at either end; the path of a folder."""
    options: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        if self.scheme == "file":
            return Path(self.prefix).as_uri()
        text = f"{self.scheme}://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")
        return text + (f"?{urlencode(self.options, safe=':/')}" if self.options else "")

    @property
    def short(self) -> str:
        """The address without its options, for messages."""
        return str(self).partition("?")[0]


def parse_place(value: Any) -> Place:
    """Read the address of a place for blobs.

    Raises
    ------
    InvalidInput
        It is not one, or holds credentials.
    """
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise InvalidInput(
            f"blobs: expected an address such as {_EXAMPLES}, found {value!r}. Nothing was made."
        )
    text = text.strip()
    scheme = text.partition("://")[0].lower() if "://" in text else ""
    if not scheme:
        return Place("file", "", str(_folder(text)))
    if scheme not in _SCHEMES:
        raise _refused(text, f"expected an address such as {_EXAMPLES}")
    scheme = _SCHEMES[scheme]
    try:
        parts = urlsplit(text)
        user = parts.username or parts.password
    except ValueError as error:
        raise _refused(text, f"it cannot be read ({error})") from None
    if user is not None or "@" in parts.netloc:
        raise _refused(text, "an address must not hold credentials; " + _CREDENTIALS[scheme])
    if parts.fragment or text.endswith("#"):
        raise _refused(text, "'#' is not part of such an address")
    if scheme == "file":
        if parts.netloc not in ("", "localhost") or parts.query:
            raise _refused(text, "expected a folder of this computer, as in file:///folder")
        path = unquote(parts.path)
        return Place("file", "", str(_folder(path[1:] if re.match(r"/[A-Za-z]:", path) else path)))
    if _BUCKET.fullmatch(parts.netloc) is None:
        raise _refused(text, f"expected the name of a bucket after {scheme}://, found {parts.netloc!r}")
    prefix = parts.path.strip("/")
    if prefix and not all(_PART.fullmatch(part) for part in prefix.split("/")):
        raise _refused(
            text, "a prefix has letters, digits, spaces, '.', '_', '-', '=' and '@', between single slashes"
        )
    return Place(scheme, parts.netloc, prefix, _options(text, scheme, parts.query))


def _folder(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_absolute():
        raise InvalidInput(
            f"blobs: expected the absolute path of a folder or an address such as {_EXAMPLES}, found {text!r}. "
            "Nothing was made."
        )
    return path


def _options(text: str, scheme: str, query: str) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _OPTIONS[scheme]:
            known = ", ".join(_OPTIONS[scheme]) or "none"
            hint = did_you_mean(name, _OPTIONS[scheme])
            raise _refused(
                text, f"the option {name!r} is not known (known: {known}).{hint} " + _CREDENTIALS[scheme]
            )
        if name in found or not value:
            raise _refused(text, f"expected one value for the option {name!r}")
        found[name] = value
    if found.get("allow_http", "true") not in ("true", "false"):
        raise _refused(text, f"allow_http: expected true or false, found {found['allow_http']!r}")
    if "endpoint" in found:
        _check_endpoint(found["endpoint"], text, allow_http=found.get("allow_http") == "true")
    return tuple(sorted(found.items()))


def _check_endpoint(url: str, where: str, *, allow_http: bool) -> bool:
    """Refuse what would send data in the clear; tell whether it is plain HTTP that is allowed."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        parts, host = urlsplit(""), None
    if (
        parts.scheme not in ("http", "https")
        or not host
        or "@" in parts.netloc
        or parts.query
        or parts.fragment
    ):
        raise _refused(where, f"endpoint: expected https://host:port, found {without_secrets(url)!r}")
    if parts.scheme == "https":
        return False
    if not (allow_http or is_loopback(host)):
        raise _refused(
            where,
            f"the endpoint http://{parts.netloc} would send data and credentials unencrypted; use https, or say "
            "allow_http=true in a network that you trust",
        )
    return True


def is_loopback(host: str) -> bool:
    """Tell whether a host is this computer."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


_CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, or use the role of the machine",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or use the account of the machine",
    "az": "set AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN or AZURE_CLIENT_ID, or use the machine's identity",
    "file": "a folder needs none",
}


def _refused(text: str, reason: str) -> InvalidInput:
    # Of what may hold a secret in any place, only the beginning is repeated.
    shown = without_secrets(text).partition("?")[0]
    return InvalidInput(f"blobs: {shown!r}: {reason}. Nothing was made.")


# -- Reaching it.


_TIMES = {"connect_timeout": "5s", "read_timeout": "30s", "timeout": "120s"}
# Requests carry at most so much, so that a slow line ends none of them.
PIECE = 8 << 20
# Beyond this an object is sent in parts.
WHOLE = 16 << 20
PATIENCE = 30.0
FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0

# The library's threads do not survive a fork, and a call in the child would wait for them for ever.
_used_by: dict[str, int] = {}


def _connect(place: Place) -> ObjectStore:
    try:
        from obstore import store as stores
    except ImportError:
        raise InvalidInput(
            f"The blobs are in {place.short}, which needs obstore. Nothing was changed. Install it with: "
            'pip install "nirs-store[shared]"'
        ) from None
    given = dict(place.options)
    client: dict[str, Any] = dict(_TIMES)
    # An error worth another try is tried again above, where the waiting can be interrupted.
    common: dict[str, Any] = {
        "prefix": place.prefix or None,
        "client_options": client,
        "retry_config": {"max_retries": 0, "retry_timeout": timedelta(seconds=PATIENCE)},
    }
    if place.scheme == "gs":
        client["allow_http"] = _allows_http(place, os.environ.get("GOOGLE_BASE_URL"), given)
        return stores.GCSStore(place.bucket, **common)
    if place.scheme == "az":
        # Only from the environment: a token that opens everything goes there, and a workspace may be a stranger's.
        endpoint = _environment("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")
        client["allow_http"] = _allows_http(place, endpoint, given)
        own = {"endpoint": endpoint, "account_name": given.get("account")}
        return stores.AzureStore(place.bucket, **_known(own), **common)
    endpoint = given.get("endpoint") or _environment(
        "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"
    )
    client["allow_http"] = _allows_http(place, endpoint, given)
    own = {"endpoint": endpoint, "region": given.get("region"), "credential_provider": _profile(place)}
    return stores.S3Store(place.bucket, **_known(own), **common)


def _environment(*names: str) -> str | None:
    return next((value for name in names if (value := os.environ.get(name))), None)


def _known(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _allows_http(place: Place, endpoint: str | None, given: Mapping[str, str]) -> bool:
    if endpoint is None:
        return False
    allowed = given.get("allow_http") or os.environ.get("AWS_ALLOW_HTTP", "")
    return _check_endpoint(endpoint, str(place), allow_http=allowed.lower() in ("1", "true"))


def _profile(place: Place) -> Any:
    """Return a source of credentials for a profile; None if the environment or the machine has them."""
    named = os.environ.get("AWS_PROFILE")
    if not named and _environment(
        "AWS_ACCESS_KEY_ID", "AWS_SKIP_SIGNATURE", "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    ):  # fmt: skip
        return None
    files = [
        Path(os.environ.get(name) or Path.home() / ".aws" / file)
        for name, file in (("AWS_SHARED_CREDENTIALS_FILE", "credentials"), ("AWS_CONFIG_FILE", "config"))
    ]
    if not named and not any(file.is_file() for file in files):
        return None
    try:
        import boto3.session
        from botocore.exceptions import BotoCoreError
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        if not named:
            return None  # the files may serve others; the machine may have a role
        raise InvalidInput(
            f"{place.short}: AWS_PROFILE names a profile, and reading profiles needs boto3. Nothing was changed. Run: "
            "pip install boto3, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        ) from None
    try:
        session = boto3.session.Session()
        if session.get_credentials() is None:
            return None
        return Boto3CredentialProvider(session)
    except BotoCoreError as error:
        raise InvalidInput(
            f"{place.short}: the profile cannot be used ({type(error).__name__}). Nothing was changed. Look at "
            "AWS_PROFILE and ~/.aws."
        ) from None


# -- What its answers mean.


_STATUS = re.compile(r"status(?: code)?: (\d{3})")
_CODE = re.compile(r"<Code>(\w{3,40})</Code>")
_URL = re.compile(r"https?://\S+")
# Where machines are asked for the credentials of their role.
_ROLE_HOSTS = ("//169.254.169.254/", "//169.254.170.2/", "//metadata.google.internal/")
_NO_CREDENTIALS = "no credentials were found, or they cannot be fetched"
_AGAIN = {408, 409, 425, 429}
_MEANINGS = {
    301: "the bucket is in another region; name it with region=",
    401: "these credentials are not valid",
    403: "these credentials may not do this",
    404: "there is no such bucket",
}


def _reason(error: BaseException) -> tuple[bool, str]:
    """Tell whether another try may help, and say what happened.

    Nothing of the answer itself but its status and code: addresses and bodies may hold tokens.
    """
    name, text = type(error).__name__, str(error)
    if any(host in text for host in _ROLE_HOSTS):
        return False, _NO_CREDENTIALS
    status = _STATUS.search(text)
    if status is not None:
        number, code = int(status[1]), _CODE.search(text)
        answer = f"it answered {number} {code[1]}" if code else f"it answered {number}"
        meaning = _MEANINGS.get(number)
        return number >= 500 or number in _AGAIN, f"{meaning} ({answer})" if meaning else answer
    if name == "InvalidPathError":
        return (
            False,
            "an object there has a name with '..' or '//' in it, which keeps it from being listed; remove it",
        )
    if name == "PermissionDeniedError":
        return False, "these credentials may not do this"
    if name == "UnauthenticatedError":
        return False, "there are no valid credentials"
    # In an address the words may be the user's own.
    words = _URL.sub("", text.partition("Debug source")[0])
    if re.search(r"[Cc]redential|[Tt]oken", words):
        return False, _NO_CREDENTIALS
    if "InvalidCertificate" in text:
        return (
            False,
            "its certificate is not trusted or not for this host (SSL_CERT_FILE names your own ones)",
        )
    if re.search(r"timed ?out|TimedOut|Timeout|deadline", text):
        return True, "it did not answer in time"
    if "Connect" in text:
        return True, "there is no connection"
    return True, "the connection broke"


T = TypeVar("T")
_SAFE = (
    "Nothing is lost: what was recorded stays in memory or in the workspace, and what is in the bucket was not "
    "touched. Call again when it answers."
)


class Bucket:
    """An object store below one prefix; pickled and printed it is its address alone."""

    def __init__(self, place: Place, *, patience: float | None = None) -> None:
        self.place = place
        self._patience = patience
        self._opened: ObjectStore | None = None

    def __repr__(self) -> str:
        return f"Bucket({self.place.short!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Bucket, (self.place,)

    def address(self, name: str) -> str:
        """Return the address of an object, for messages."""
        return f"{self.place.short}/{name}"

    # -- calls --------------------------------------------------------------------------------

    def head(self, name: str) -> ObjectMeta | None:
        """Look at an object."""

        def look(obstore: Any, store: ObjectStore) -> ObjectMeta | None:
            meta: ObjectMeta = obstore.head(store, name)
            return meta

        return self._call(f"look at {name}", look, missing=None)

    def get(self, name: str, start: int, end: int, e_tag: str | None) -> bytes | None:
        """Read bytes of an object; None when it is gone, or no longer the one of that tag."""
        options: dict[str, Any] = {"range": (start, end)} if end > start else {}
        if e_tag is not None:
            options["if_match"] = e_tag

        def read(obstore: Any, store: ObjectStore) -> bytes | None:
            data = bytearray()
            try:
                for piece in obstore.get(store, name, options=options).stream():
                    data += piece
                    # Whatever a server sends, memory has its bound.
                    if len(data) > end - start:
                        raise ConnectionError("it sent more than it was asked for")
            except obstore.exceptions.PreconditionError:
                return None
            if len(data) < end - start:
                raise ConnectionError("the answer was cut off")
            return bytes(data)

        return self._call(f"read {name}", read, missing=None)

    def create(self, name: str, data: Buffer) -> bool:
        """Make an object; False when one of that name is there, which may be one's own after an unclear answer."""

        def put(obstore: Any, store: ObjectStore) -> bool:
            try:
                obstore.put(store, name, data, mode="create", use_multipart=False)
            except (obstore.exceptions.AlreadyExistsError, obstore.exceptions.PreconditionError):
                return False
            return True

        return self._call(f"write {name}", put)

    def replace(self, name: str, source: Buffer | Path) -> None:
        """Write an object, whatever is there; a large one in parts, so that it appears at their end."""

        def put(obstore: Any, store: ObjectStore) -> None:
            obstore.put(store, name, source, chunk_size=PIECE, max_concurrency=4)

        self._call(f"write {name}", put)

    def list(self, prefix: str) -> Sequence[ObjectMeta]:
        """List the objects whose names begin with a prefix."""
        # The library takes whole folders for a prefix only.
        folder = prefix.rpartition("/")[0] or None

        def listed(obstore: Any, store: ObjectStore) -> Sequence[ObjectMeta]:
            pages = obstore.list(store, folder, chunk_size=1000)
            return [each for page in pages for each in page if each["path"].startswith(prefix)]

        return self._call("list its objects", listed)

    def delete(self, names: Sequence[str]) -> None:
        """Delete objects; those that are gone are passed over."""

        def delete(obstore: Any, store: ObjectStore) -> None:
            try:
                obstore.delete(store, names)
            except FileNotFoundError:
                # Some stores say so of one, and leave open what became of the others.
                for name in names:
                    with contextlib.suppress(FileNotFoundError):
                        obstore.delete(store, name)

        self._call("delete", delete)

    def _call(self, what: str, call: Callable[[Any, ObjectStore], T], **missing: T) -> T:
        store = self._store()
        import obstore
        from obstore.exceptions import BaseError

        patience = PATIENCE if self._patience is None else self._patience
        began, pause = time.monotonic(), FIRST_PAUSE
        while True:
            try:
                return call(obstore, store)
            except FileNotFoundError as error:
                if missing and "NoSuchBucket" not in str(error):
                    return missing["missing"]
                again, reason = False, "there is no such bucket"
            except ConnectionError as error:
                again, reason = True, str(error)
            except ValueError:
                again, reason = False, "it takes no such name"
            except BaseError as error:
                again, reason = _reason(error)
            waited = time.monotonic() - began
            if not again or waited + pause > patience:
                tried = f", for {waited:.0f} s" if again else ""
                # Raised after the handlers, so that the library's error is not shown with it: that has whole addresses
                # and answers, with what they hold.
                raise SharedStoreUnreachable(f"{self.place.short} cannot {what}: {reason}{tried}. {_SAFE}")
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _store(self) -> ObjectStore:
        if os.getpid() != _used_by.setdefault("pid", os.getpid()):
            raise SharedStoreUnreachable(
                f"{self.place.short} cannot be reached from this process: it was forked from one that had used an "
                "object store, and the library for them does not survive a fork. Nothing was changed. Start workers "
                "with joblib's loky or with multiprocessing.get_context('spawn')."
            )
        if self._opened is None:
            self._opened = _connect(self.place)
        return self._opened
