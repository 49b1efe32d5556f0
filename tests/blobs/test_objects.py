"""Blobs in an object store that answers badly, late, twice or falsely, and what a bucket may hold besides."""

from __future__ import annotations

import hashlib
import os
import pickle
import signal
import stat
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bucketkit
import pytest
from bucketkit import Proxy, Seen
from storekit import begin, chain_of

from nirs_store.blobs import bucket as bucket_module
from nirs_store.blobs import objects
from nirs_store.blobs.backend import BLOBS, BlobBackend, hash_blob
from nirs_store.blobs.bucket import Bucket, parse_place
from nirs_store.blobs.copies import Copies
from nirs_store.blobs.objects import Names, ObjectBlobs, key_of, name_of
from nirs_store.blobs.store import BlobStore, blob_key
from nirs_store.errors import (
    ArtifactMissing,
    BlobCorrupt,
    BlobUnreadable,
    InvalidInput,
    SharedStoreUnreachable,
)
from nirs_store.store import WorkspaceStore

DATA = bytes(range(256)) * 400
HASH = hashlib.sha256(DATA).hexdigest()
KEY = blob_key(HASH, "joblib")
WRONG = DATA[:-1] + b"!"
SECRETS = ("key-for-tests", "secret-for-tests")

Answer = Callable[[Callable[[], Any]], Any]


@pytest.fixture
def proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    bucketkit.credentials(monkeypatch, tmp_path)
    with bucketkit.proxy() as running:
        yield running


@pytest.fixture
def blobs(proxy: Proxy, tmp_path: Path) -> ObjectBlobs:
    return bucketkit.backend(tmp_path, bucketkit.address(proxy.port))


def told(error: BaseException) -> str:
    """Return all that a traceback would show."""
    return "".join(traceback.format_exception(error))


def read(blobs: BlobBackend, **options: Any) -> bytes:
    file, _ = blobs.open(KEY, **options)
    with file:
        return file.read()


# -- addresses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("s3://lab/nirs", "s3://lab/nirs"),
        (" S3A://lab/a/b=1/c d/ ", "s3://lab/a/b=1/c d"),
        ("s3://lab?region=eu-west-1&endpoint=https://minio.lab:9000", "s3://lab"),
        ("gcs://lab-bucket/x", "gs://lab-bucket/x"),
        ("azure://container?account=lab", "az://container"),
        ("file:///srv/lab", "file:///srv/lab"),
        ("/srv/lab", "file:///srv/lab"),
    ],
)
def test_an_address_is_read_and_written_back(text: str, short: str) -> None:
    place = parse_place(text)
    assert place.short == short
    assert parse_place(str(place)) == place


@pytest.mark.parametrize(
    "text",
    [
        "s3://AKIAHIDDEN:hidden-word@lab/x",
        "s3://hidden-word@lab/x",
        "s3://lab/x?aws_secret_access_key=hidden-word",
        "az://c/x?sig=hidden-word",
        "s3://lab/x?endpoint=https://me:hidden-word@minio:9000",
        "s3://lab/x?endpoint=https://minio:9000/?token=hidden-word",
        "s3://lab/x?endpoint=http://minio.lab:9000",
        "s3://lab/x?endpoint=http://10.0.0.7&allow_http=yes",
        "s3://lab/../x",
        "s3://lab/a//b",
        "s3://lab/a#b",
        "s3:///x",
        "s3://",
        "gs://lab/x?endpoint=https://x",
        "s3://lab/x?regoin=eu",
        "ftp://lab/x",
        "file://server/share",
        "models",
        "",
        7,
    ],
)
def test_an_address_that_cannot_be_or_holds_a_secret_is_refused_without_showing_it(text: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_place(text)
    assert "hidden-word" not in told(caught.value)
    assert "HIDDEN" not in str(caught.value)


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_http_is_refused_unless_it_stays_here_or_is_allowed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucketkit.credentials(monkeypatch, tmp_path)
    for endpoint, query, refused in (
        ("http://192.0.2.1:9", "", True),
        ("http://localhost.example:9", "", True),
        ("http://127.0.0.1:9", "", False),
        ("http://[::1]:9", "", False),
        ("https://192.0.2.1:9", "", False),
        ("http://192.0.2.1:9", "?allow_http=true", False),
    ):
        monkeypatch.setenv(name, endpoint)
        bucket = Bucket(parse_place("s3://lab/x" + query))
        if refused:
            with pytest.raises(InvalidInput, match="unencrypted"):
                bucket._store()
        else:
            bucket._store()


def test_neither_a_pickle_nor_a_text_of_it_holds_credentials(blobs: ObjectBlobs) -> None:
    blobs.put({KEY: DATA})
    bucket = blobs._bucket
    for shown in (
        repr(blobs),
        repr(bucket),
        str(bucket.place),
        repr(pickle.dumps(bucket)),
        blobs.address(KEY),
    ):
        assert not any(secret in shown for secret in SECRETS)
    assert pickle.loads(pickle.dumps(bucket)).head(name_of(KEY))["size"] == len(DATA)


def test_credentials_come_from_a_profile_when_it_is_named(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    file = tmp_path / "credentials"
    file.write_text("[lab]\naws_access_key_id = key-of-the-lab\naws_secret_access_key = hidden-word\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    url = bucketkit.address(proxy.port)
    bucketkit.backend(tmp_path, url).put({KEY: DATA})
    assert "Credential=key-of-the-lab/" in proxy.seen[-1].headers["authorization"]

    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(InvalidInput, match="AWS_PROFILE") as caught:
        Bucket(parse_place(url)).head(name_of(KEY))
    assert "hidden-word" not in told(caught.value)
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(InvalidInput, match="needs boto3"):
        Bucket(parse_place(url)).head(name_of(KEY))


@pytest.mark.parametrize("text", ["gs://lab-bucket/x", "az://container/x?account=lab"])
def test_other_clouds_are_reached_through_the_same_library(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucketkit.credentials(monkeypatch, tmp_path)
    assert Bucket(parse_place(text))._store().prefix == "x"


def test_names_of_objects_tell_keys_and_generations_apart() -> None:
    keys = ["models/by hand.bin", "a=20b", "a b", "a!1", "a!", "ü/%2F", "a~{}*", KEY]
    names = {name_of(key, number): (key, number) for key in keys for number in (0, 1, 12)}
    assert len(names) == 3 * len(keys)
    assert {name: key_of(name) for name in names} == names
    for name in ("a!0", "a!01", "a!x", "a!-1", "a b", "a%20b", "a=2", "a=ff", "a=41", "a!1!2", objects.OWNER):
        assert key_of(name) is None


# -- answers -------------------------------------------------------------------------------------


def status(number: int, body: bytes = b"") -> Answer:
    return lambda send: (number, [], body)


def cut(send: Callable[[], Any]) -> None:
    """End the connection without an answer."""


def truncated(send: Callable[[], Any]) -> Any:
    number, headers, body = send()
    return number, headers, body[: len(body) // 2]


def done_but_unclear(send: Callable[[], Any]) -> Any:
    send()
    return 500, [], b"<Error><Code>InternalError</Code></Error>"


def done_but_cut(send: Callable[[], Any]) -> None:
    send()


def answering(answer: Answer, methods: str, times: int) -> Callable[[Seen, Callable[[], Any]], Any]:
    """Answer so many requests of these methods in a way of one's own, and pass the rest on."""
    left, lock = [times], threading.Lock()

    def rule(seen: Seen, send: Callable[[], Any]) -> Any:
        with lock:
            bad = seen.method in methods.split() and left[0] > 0
            left[0] -= bad
        return answer(send) if bad else send()

    return rule


SLOW_DOWN = status(503, b"<Error><Code>SlowDown</Code></Error>")


@pytest.mark.parametrize(
    "answer", [SLOW_DOWN, status(500), status(429), cut, truncated, done_but_unclear, done_but_cut]
)
def test_a_storm_is_waited_out_whatever_is_asked(proxy: Proxy, blobs: ObjectBlobs, answer: Answer) -> None:
    everything = "HEAD GET PUT DELETE POST"
    proxy.rule = answering(answer, everything, 2)
    blobs.put({KEY: DATA})
    proxy.rule = answering(answer, everything, 2)
    assert read(blobs) == DATA
    proxy.rule = answering(answer, everything, 2)
    assert list(blobs.list(BLOBS)) == [KEY]
    proxy.rule = answering(answer, everything, 2)
    blobs.trash([KEY])
    proxy.rule = answering(answer, everything, 2)
    assert blobs.delete([KEY]) == (1, len(DATA))
    proxy.rule = None
    assert blobs.stat(KEY) is None
    assert blobs.strays() == []


@pytest.mark.parametrize("answer", [done_but_unclear, done_but_cut])
@pytest.mark.parametrize("there", [None, DATA, WRONG, DATA[:-1]])
def test_after_an_unclear_answer_an_own_object_is_told_from_a_strangers(
    proxy: Proxy, blobs: ObjectBlobs, answer: Answer, there: bytes | None
) -> None:
    if there is not None:
        blobs._bucket.replace(name_of(KEY), there)
    proxy.seen.clear()
    proxy.rule = answering(answer, "PUT", 1)
    blobs.put({KEY: DATA})
    writes = sum(seen.method == "PUT" for seen in proxy.seen)
    # Twice to create it; an object with other bytes is replaced.
    assert writes == (2 if there in (None, DATA) else 3)
    assert read(blobs) == DATA


def test_an_object_store_that_stays_away_is_named_with_what_is_safe(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = bucketkit.address(proxy.port)
    blobs = bucketkit.backend(tmp_path, url, patience=0.01)
    blobs.put({KEY: DATA})
    file = tmp_path / "finished"
    file.write_bytes(DATA)
    body = b"<Error><Code>SlowDown</Code><AWSAccessKeyId>key-for-tests</AWSAccessKeyId></Error>"
    for answer, reason in ((status(503, body), "503"), (cut, "connection")):
        proxy.rule = answering(answer, "HEAD GET PUT POST DELETE", 10**6)
        for call in (
            lambda: blobs.put({"models/x": file}),
            lambda: blobs.put({KEY: DATA}),
            lambda: read(blobs),
            lambda: blobs.stat(KEY),
            lambda: list(blobs.list(BLOBS)),
            lambda: blobs.trash([KEY]),
            lambda: BlobStore(blobs).read(KEY, HASH),
        ):
            with pytest.raises(SharedStoreUnreachable) as caught:
                call()
            words = told(caught.value)
            assert blobs._bucket.place.short in words
            assert reason in words
            assert "Nothing is lost" in words
            assert not any(secret in words for secret in SECRETS)
    assert file.read_bytes() == DATA
    proxy.rule = None
    assert read(blobs) == DATA


@pytest.mark.parametrize("number", [401, 403])
def test_what_credentials_may_not_is_not_tried_again(proxy: Proxy, blobs: ObjectBlobs, number: int) -> None:
    blobs.put({KEY: DATA})
    proxy.rule = answering(status(number), "PUT HEAD GET", 10**6)
    for call in (lambda: blobs.put({KEY: WRONG}), lambda: blobs.stat(KEY)):
        proxy.seen.clear()
        with pytest.raises(SharedStoreUnreachable, match="credentials"):
            call()
        assert len(proxy.seen) == 1


PERFORMING = "Generic S3 error: Error performing HEAD"


@pytest.mark.parametrize(
    ("text", "again", "words"),
    [
        (
            f"{PERFORMING} http://h/tokens/credential in 1ms - HTTP error\n\nDebug source: kind: Connect",
            True,
            "no connection",
        ),
        (f"{PERFORMING} http://h/x in 1ms - HTTP error\n\nDebug source: TimedOut", True, "in time"),
        (
            f"{PERFORMING} http://169.254.169.254/latest/api - status code: 404 Not Found",
            False,
            "no credentials",
        ),
        (
            f"{PERFORMING} http://h/x - status code: 301 Moved: <Code>PermanentRedirect</Code>",
            False,
            "region=",
        ),
        (
            f"{PERFORMING} http://h/x?sig=hidden-word - status code: 403: <Code>Expired</Code> hidden-word",
            False,
            "403 Expired",
        ),
        ("Generic S3 error: Missing AccessToken hidden-word", False, "no credentials"),
        (f"{PERFORMING} http://h/x - status code: 429 Too Many: hidden-word", True, "429"),
        (f"{PERFORMING} http://h/x - status code: 412 Precondition", False, "412"),
    ],
)
def test_what_an_answer_means_is_said_without_repeating_it(text: str, again: bool, words: str) -> None:
    found = bucket_module._reason(RuntimeError(text))
    assert found[0] is again
    assert words in found[1]
    assert "hidden-word" not in found[1]


def test_a_place_that_is_gone_or_anothers_does_not_make_blobs_lost(
    proxy: Proxy, blobs: ObjectBlobs, tmp_path: Path
) -> None:
    url = str(blobs._bucket.place)
    blobs.put({KEY: DATA})
    with pytest.raises(SharedStoreUnreachable, match="another workspace"):
        bucketkit.backend(tmp_path, url, owner="w2")
    for emptied in (
        url.replace("s3://lab/", "s3://lab/elsewhere/"),
        url.replace("s3://lab", "s3://no-bucket"),
    ):
        other = ObjectBlobs(
            Bucket(parse_place(emptied)),
            blobs._names,
            blobs._copies,
            root=tmp_path,
            scratch=tmp_path,
            owner="w1",
        )
        for call in (
            lambda other=other: list(other.list(BLOBS)),
            lambda other=other: read(other),
            lambda other=other: other.put({KEY: DATA}),
            lambda other=other: other.strays(),
            lambda other=other: other.trash([KEY]),
        ):
            with pytest.raises(SharedStoreUnreachable):
                call()


def test_who_saves_waits_for_no_answer(proxy: Proxy, blobs: ObjectBlobs) -> None:
    gate = threading.Event()

    def rule(seen: Seen, send: Callable[[], Any]) -> Any:
        gate.wait(30)
        return send()

    proxy.rule = rule
    store = BlobStore(blobs)
    for number in range(5):
        store.put(DATA + bytes([number]), "joblib")
        store.put(DATA + bytes([number]), "joblib")
    assert store.pending_bytes == 5 * (len(DATA) + 1)
    gate.set()
    store.close()
    assert len(list(blobs.list(BLOBS))) == 5


# -- deletions that come late --------------------------------------------------------------------


def late_deletions(proxy: Proxy) -> list[Callable[[], Any]]:
    """Let the proxy say that it has deleted, and keep what it was to do."""
    kept: list[Callable[[], Any]] = []

    def rule(seen: Seen, send: Callable[[], Any]) -> Any:
        if seen.method == "DELETE" or (seen.method == "POST" and "delete" in seen.path):
            kept.append(send)
            done = b"<Deleted><Key>x</Key></Deleted>"
            return (
                200,
                [],
                b'<DeleteResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">%s</DeleteResult>' % done,
            )
        return send()

    proxy.rule = rule
    return kept


def test_a_deletion_that_lands_an_hour_later_hits_nothing_that_anybody_needs(
    proxy: Proxy, blobs: ObjectBlobs, tmp_path: Path
) -> None:
    kept = late_deletions(proxy)
    for _ in range(3):  # saved and collected again and again, while all deletions are on their way
        blobs.put({KEY: DATA})
        blobs.trash([KEY])
        assert blobs.delete([KEY]) == (1, len(DATA))
        assert blobs.stat(KEY) is None
    assert list(blobs.list("")) == []
    blobs.put({KEY: DATA})
    assert len(kept) == 3
    for send in kept:
        send()
    # Also for a process that has seen nothing of it.
    other = bucketkit.backend(tmp_path, str(blobs._bucket.place), cache="other")
    assert read(other, fresh=True) == DATA
    assert list(other.list(BLOBS)) == [KEY]
    assert other.strays() == []


def test_what_was_condemned_never_comes_back_and_is_deleted_when_it_can_be(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "_REST", 0.0)
    blobs = bucketkit.backend(tmp_path, bucketkit.address(proxy.port), patience=0.01)
    blobs.put({KEY: DATA, "models/x": b"1"})
    blobs.trash([KEY])
    proxy.rule = answering(status(503), "POST DELETE", 10**6)
    with pytest.warns(UserWarning, match="could not be deleted"):
        assert blobs.delete([KEY]) == (1, len(DATA))
    blobs.restore([KEY])
    assert blobs.stat(KEY) is None
    assert blobs.stat(KEY, trashed=True) is None
    assert blobs.strays() == [KEY]
    proxy.rule = None
    assert blobs.delete([]) == (0, 0)
    assert blobs.strays() == []
    blobs.put({KEY: DATA})
    assert read(blobs) == DATA


def test_the_trash_waits_while_the_object_store_is_away(proxy: Proxy, tmp_path: Path) -> None:
    blobs = bucketkit.backend(tmp_path, bucketkit.address(proxy.port), patience=0.01)
    blobs.put({KEY: DATA})
    blobs.trash([KEY])
    proxy.rule = answering(status(503), "HEAD GET", 10**6)
    blobs.restore([KEY])
    assert list(blobs.list("", trashed=True)) == [KEY]
    proxy.seen.clear()
    blobs.restore([KEY])  # it was asked a moment ago
    assert proxy.seen == []
    proxy.rule = None
    blobs._resting = 0.0
    blobs.restore([KEY])
    assert list(blobs.list("", trashed=True)) == []
    assert read(blobs) == DATA


def test_a_list_of_condemned_names_that_was_cut_short_is_read_as_far_as_it_goes(blobs: ObjectBlobs) -> None:
    for _ in range(2):
        blobs.put({KEY: DATA})
        blobs.trash([KEY])
        blobs.delete([KEY])
    path = blobs._names._list
    with open(path, "ab") as file:
        file.write(b"+ artifacts/zz/never 1")
    blobs.put({KEY: DATA})
    assert [each["path"] for each in blobs._bucket.list(BLOBS)] == [name_of(KEY, 2)]
    blobs.trash([KEY])
    blobs.delete([KEY])
    assert blobs._names.generation(KEY) == 3
    assert blobs._names.generation("artifacts/zz/never") == 0


# -- bytes ---------------------------------------------------------------------------------------


def test_bytes_that_change_on_the_way_are_fetched_again(proxy: Proxy, blobs: ObjectBlobs) -> None:
    blobs.put({KEY: DATA})

    def altered(send: Callable[[], Any]) -> Any:
        number, headers, _ = send()
        return number, headers, WRONG

    proxy.rule = answering(altered, "GET", 1)
    assert BlobStore(blobs).read(KEY, HASH) == DATA
    (blobs._copies.folder / HASH).unlink()
    proxy.rule = answering(altered, "GET", 10**6)
    with pytest.raises(BlobCorrupt):
        BlobStore(blobs).read(KEY, HASH)
    assert not (blobs._copies.folder / HASH).exists()


def test_an_answer_of_more_bytes_than_were_asked_for_is_not_taken(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = bucketkit.backend(tmp_path, bucketkit.address(proxy.port), patience=0.5)
    blobs.put({KEY: DATA})

    def longer(send: Callable[[], Any]) -> Any:
        number, headers, body = send()
        return number, [(n, v) for n, v in headers if n.lower() != "content-length"], body + b"!" * 5_000_000

    proxy.rule = answering(longer, "GET", 10**6)
    with pytest.raises(SharedStoreUnreachable, match="more than"):
        read(blobs)
    proxy.rule = answering(longer, "GET", 1)
    assert read(blobs) == DATA


def test_a_copy_is_checked_each_time_and_a_check_asks_the_bucket(proxy: Proxy, blobs: ObjectBlobs) -> None:
    blobs.put({KEY: DATA})
    assert read(blobs) == DATA
    copy = blobs._copies.folder / HASH
    if os.name != "nt":
        assert stat.S_IMODE(copy.parent.stat().st_mode) == 0o700
    proxy.seen.clear()
    assert read(blobs) == DATA
    assert [seen.method for seen in proxy.seen] == ["HEAD"]
    copy.chmod(0o600)
    copy.write_bytes(WRONG)
    assert read(blobs) == DATA
    blobs._bucket.replace(name_of(KEY), WRONG)
    assert hash_blob(blobs, KEY)[0] == hashlib.sha256(WRONG).hexdigest()
    with pytest.raises(BlobCorrupt):
        BlobStore(blobs).verify(KEY, HASH)


def test_copies_stay_within_their_bound_but_for_those_that_are_lent(
    blobs: ObjectBlobs, tmp_path: Path
) -> None:
    copies = Copies(tmp_path / "small", limit=1000)
    contents = [bytes([number]) * 300 for number in range(8)]

    def add(data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        draft = copies.draft()
        draft.write_bytes(data)
        copies.add(draft, digest).close()
        return digest

    lent = add(contents[0])
    path = copies.lend(lent)
    old = add(contents[1])
    os.utime(copies.folder / old, (1, 1))
    digests = [add(data) for data in contents[2:]]
    left = {each.name for each in copies.folder.iterdir()}
    assert path.read_bytes() == contents[0]
    assert old not in left
    assert digests[-1] in left
    assert len(left) == 3


@pytest.mark.skipif(os.name == "nt" or (os.geteuid() == 0 and not hasattr(os, "symlink")), reason="links")
def test_a_cache_that_is_a_link_is_not_used(blobs: ObjectBlobs, tmp_path: Path) -> None:
    (tmp_path / "others").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "others")
    copies = Copies(tmp_path / "link")
    assert copies.folder != tmp_path / "link"
    assert list((tmp_path / "others").iterdir()) == []


def test_large_objects_go_in_pieces_both_ways(
    proxy: Proxy, blobs: ObjectBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "PIECE", 40_000)
    monkeypatch.setattr(objects, "WHOLE", 50_000)
    file = tmp_path / "finished"
    file.write_bytes(DATA)
    blobs.put({KEY: file, "models/x": DATA})
    assert not file.exists()
    proxy.seen.clear()
    assert read(blobs) == DATA
    assert sum(seen.method == "GET" for seen in proxy.seen) == 3
    # The second piece of an object that has changed meanwhile is not taken for a part of the first.
    (blobs._copies.folder / HASH).unlink()
    replaced = threading.Event()

    def rule(seen: Seen, send: Callable[[], Any]) -> Any:
        found = send()
        if seen.method == "GET" and not replaced.is_set():
            replaced.set()
            blobs._bucket.replace(name_of(KEY), b"!" + DATA[1:])
        return found

    proxy.rule = rule
    assert read(blobs) == b"!" + DATA[1:]
    blobs.put({KEY: DATA})
    assert read(blobs) == DATA


# -- what else may lie there ---------------------------------------------------------------------


def test_odd_names_in_a_bucket_are_told_and_touch_nothing(blobs: ObjectBlobs, tmp_path: Path) -> None:
    blobs.put({KEY: DATA})
    odd = ["artifacts/..=2F..=2Fetc/x", "artifacts/a b", "artifacts/=2E=2E/x", "artifacts/ab!x", f"{KEY}!7"]
    prefix = blobs._bucket.place.prefix
    for name in odd:
        blobs._bucket.replace(name, b"?")
    before = sorted(tmp_path.rglob("*"))
    assert list(blobs.list(BLOBS)) == [KEY]
    assert [key for key, _ in blobs.scan(BLOBS)] == [KEY]
    assert set(odd) <= set(blobs.strays())
    assert sorted(tmp_path.rglob("*")) == before
    # The library lists nothing where one name has such parts; reading and saving go on.
    bucketkit.request(bucketkit.s3_port(), "PUT", f"/lab/{prefix}/artifacts/../../x", b"?")
    with pytest.raises(SharedStoreUnreachable, match="remove it"):
        list(blobs.list(BLOBS))
    assert read(blobs) == DATA
    assert sorted(tmp_path.rglob("*.py")) == []


def test_an_object_larger_than_this_computer_is_not_fetched(proxy: Proxy, blobs: ObjectBlobs) -> None:
    blobs.put({KEY: DATA})

    def huge(send: Callable[[], Any]) -> Any:
        number, headers, body = send()
        return (
            number,
            [(n, v) for n, v in headers if n.lower() != "content-length"] + [("Content-Length", str(10**16))],
            body,
        )

    proxy.rule = answering(huge, "HEAD", 10**6)
    proxy.seen.clear()
    with pytest.raises(BlobUnreadable, match="do not fit"):
        BlobStore(blobs).read(KEY, HASH)
    assert all(seen.method == "HEAD" for seen in proxy.seen)
    # It counts as damaged, and saving it again heals it.
    proxy.rule = None
    proxy.seen.clear()
    store = BlobStore(blobs)
    store.put(DATA, "joblib")
    store.close()
    assert all(seen.method in ("HEAD", "GET") for seen in proxy.seen)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="it forks")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_is_told_instead_of_waiting_for_ever(blobs: ObjectBlobs) -> None:
    blobs.put({KEY: DATA})
    child = os.fork()
    if not child:
        code = 1
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(30)  # without its answer it would wait for ever
        try:
            blobs.stat(KEY)
        except SharedStoreUnreachable as error:
            code = 0 if "fork" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert read(blobs) == DATA


def test_a_new_artifact_costs_two_requests_and_one_that_is_gone_is_missed(
    proxy: Proxy, tmp_path: Path
) -> None:
    with WorkspaceStore(tmp_path / "ws", blobs=bucketkit.address(proxy.port)) as store:
        _, pipeline_id = begin(store)
        first = store.save_artifact([0.0], "builtins.list", "model", "joblib")
        store.flush()
        proxy.seen.clear()
        with store.transaction():
            saved = [store.save_artifact([float(n)], "builtins.list", "model", "joblib") for n in (1, 2, 3)]
            store._engine.blobs.wait()
            for artifact_id in saved:
                chain_of(store, pipeline_id, artifact_id)
        store.flush()
        kinds = Counter("list" if "list-type" in seen.path else seen.method for seen in proxy.seen)
        # Whether an object has the same bytes, in this or another format, and the object.
        assert kinds == {"list": 3, "PUT": 3}
        store._engine.layout.blobs._bucket.delete([name_of(blob_key(first, "joblib"))])  # type: ignore[attr-defined]
        with pytest.raises(ArtifactMissing, match="gone"):
            chain_of(store, pipeline_id, first)


# -- Many threads, and an interpreter that is ending.


class _Stepped(threading.Thread):
    """A thread that stops before one line of the look at the list of condemned names, until it is told to go on."""

    def __init__(self, names: Names, line: int, meanwhile: Callable[[], None]) -> None:
        super().__init__()
        self.names, self.line, self.meanwhile = names, line, meanwhile
        self.lines = 0

    def run(self) -> None:
        sys.settrace(self.trace)
        self.found = self.names.generation(KEY)
        sys.settrace(None)

    def trace(self, frame: Any, event: str, _: Any) -> Any:
        if frame.f_code.co_name != "_look":
            return None
        if event == "line":
            self.lines += 1
            if self.lines == self.line:
                self.meanwhile()
        return self.trace


@pytest.mark.parametrize("late", range(5, 18))
def test_a_condemned_name_is_not_free_because_another_thread_had_read_the_list_before(
    tmp_path: Path, late: int
) -> None:
    trash, condemned = tmp_path / "trash", tmp_path / "condemned"
    trash.mkdir()
    for step in range(1, 40):
        condemned.write_bytes(b"+ artifacts/00/other 0 .\n")
        names, stopped, go_on = Names(trash, condemned), threading.Event(), threading.Event()

        def wait(stopped: threading.Event = stopped, go_on: threading.Event = go_on) -> None:
            stopped.set()
            assert go_on.wait(60)

        first = _Stepped(names, late, wait)
        first.start()
        while not stopped.wait(0.001) and first.is_alive():
            pass
        Names(trash, condemned)._append("+", [(KEY, 0)])

        def end(first: _Stepped = first, go_on: threading.Event = go_on) -> None:
            go_on.set()
            first.join()

        second = _Stepped(names, step, end)
        second.start()
        second.join()
        end()
        assert (second.found, names.generation(KEY)) == (1, 1)
        if second.lines < step:
            break


def test_a_deletion_goes_on_while_the_interpreter_ends(
    tmp_path: Path, blobs: ObjectBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def refuse(*_: Any) -> Any:
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    keys = [blob_key(hashlib.sha256(bytes([each])).hexdigest(), "joblib") for each in range(5)]
    blobs.put(dict.fromkeys(keys, DATA))
    monkeypatch.setattr(ThreadPoolExecutor, "submit", refuse)
    blobs.trash(keys)
    blobs.restore(keys[:2])
    assert sorted(blobs.list(BLOBS)) == sorted(keys[:2])
    assert blobs.delete(keys[2:])[0] == 3
