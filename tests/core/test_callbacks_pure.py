from __future__ import annotations

import asyncio
import base64
import hmac
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import pytest

from kling_async import CallbackError, ConfigurationError, InvalidJobError, Polling, Status, Text2Video
from kling_async._binding import Binding
from kling_async._capability import capability, digest_of
from kling_async._clock import SystemClock
from kling_async._durations import kind_asked
from kling_async._pacing import Paces
from kling_async.callbacks import Receiver, decode
from kling_async.callbacks._asgi import _below
from kling_async.callbacks._posts import Post, flat, head_fault, token_of
from kling_async.callbacks._signature import is_signed, keys_from
from kling_async.hints import Hints
from kling_async.journal import Creation
from looks import DROPPED, PROCESSING, SUCCEEDED, see, watch

SECRET = "whsec_dGVzdHNlY3JldHRlc3RzZWNyZXR0ZXN0c2VjcmV0MTI="
OTHER = "whsec_" + base64.b64encode(b"another secret, thirty-two bytes").decode()
BODY = b'{"id":"1234567890","status":"succeeded","message":"","create_time":1781080778802,"update_time":1781080794151}'
SIGNED = {
    "webhook-id": "9876543210",
    "webhook-timestamp": "1781080794",
    "webhook-signature": "v1,UsKlJP00XoQyOn410NM9xv34sP+Gl0jnOO9Lcpr7NJ4=",
}
THEN = 1781080794.0


def signature(secret: str, moment: str = SIGNED["webhook-timestamp"]) -> str:
    """What the service would send."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    return "v1," + base64.b64encode(hmac.digest(key, f"9876543210.{moment}.".encode() + BODY, "sha256")).decode()


@pytest.mark.row("H7")
@pytest.mark.parametrize(
    ("good", "changes", "secret", "late"),
    [
        (True, {}, SECRET, 0),
        (True, {}, SECRET, 300),
        (True, {}, SECRET, -300),
        (True, {}, [OTHER, SECRET], 0),
        (True, {"webhook-signature": f"v1,AAAA {SIGNED['webhook-signature']} v2,x"}, SECRET, 0),
        (True, {"webhook-signature": signature(OTHER)}, [SECRET, OTHER], 0),
        (False, {}, SECRET, 301),
        (False, {}, SECRET, -301),
        (False, {}, OTHER, 0),
        (False, {"webhook-signature": signature(OTHER)}, SECRET, 0),
        (False, {"webhook-signature": ""}, SECRET, 0),
        (False, {"webhook-signature": SIGNED["webhook-signature"][3:]}, SECRET, 0),
        (False, {"webhook-signature": SIGNED["webhook-signature"].replace("v1", "v1a")}, SECRET, 0),
        (False, {"webhook-signature": "v1,\udcff\u20ac"}, SECRET, 0),
        (False, {"webhook-id": "9876543211"}, SECRET, 0),
        (False, {"webhook-id": ""}, SECRET, 0),
        (False, {"webhook-id": "\u20ac\udc80"}, SECRET, 0),
        (False, {"webhook-timestamp": "1781080795"}, SECRET, 0),
        (False, {"webhook-timestamp": "now"}, SECRET, 0),
        (False, {"webhook-timestamp": "\u0661"}, SECRET, 0),
        (False, {"webhook-timestamp": "9" * 400}, SECRET, 0),
        (False, {"webhook-timestamp": "-1"}, SECRET, 0),
    ],
)
def test_signature(*, good: bool, changes: dict[str, str], secret: str | Iterable[str], late: float) -> None:
    """The documented vector is accepted, under any of the keys and within five minutes; whatever differs is not."""
    assert is_signed(keys_from(secret), SIGNED | changes, BODY, now=THEN + late) is good


@pytest.mark.row("H7")
def test_signature_of_another_body() -> None:
    """One space more and the signature is wrong; so it is when headers are missing or come twice."""
    keys = keys_from(SECRET)
    assert not is_signed(keys, SIGNED, BODY + b" ", now=THEN)
    assert not is_signed(keys, {}, BODY, now=THEN)
    for name in ("webhook-id", "webhook-timestamp"):
        assert not is_signed(keys, flat([*SIGNED.items(), (name, SIGNED[name])]), BODY, now=THEN)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_!c4n4ry", [], [SECRET, "c4n4ry\u20ac"]])
def test_unusable_secrets(secret: Any) -> None:
    """A secret that is none is refused when the receiver is made, and never repeated."""
    with pytest.raises(ConfigurationError, match="whsec_") as refused:
        Receiver("https://me.example", secret=secret)
    assert "c4n4ry" not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["me.example", "ftp://me.example", "https://u:p@me.example", "https://me.example/#a", "https://me.example?a=b"]
)
def test_unusable_public_urls(url: str) -> None:
    """A URL to which no token can be added is refused when the receiver is made."""
    with pytest.raises(ConfigurationError, match="public_url"):
        Receiver(url)


def test_receiver_tells_no_secret() -> None:
    """What is shown of a receiver and of a capability holds neither secret nor token."""
    receiver = Receiver("https://me.example/kling/", secret=SECRET)
    issued = capability(receiver)
    token = issued.url.removeprefix("https://me.example/kling/")
    assert token_of(Post(method="POST", path=token, query=False, headers={})) == token
    assert issued.digest == digest_of(token)
    assert repr(receiver) == "<Receiver https://me.example/kling signed>"
    assert token not in repr(issued)
    assert capability(receiver).url != issued.url


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "application/json"}, None),
        ({"content-type": 'APPLICATION/json ; charset="utf-8"', "content-length": "65536"}, None),
        ({"content-type": "application/json", "content-encoding": "identity"}, None),
        ({}, 415),
        ({"content-type": "application/json, application/json"}, 415),
        ({"content-type": "application/json; charset=utf-16"}, 415),
        ({"content-type": "application/json", "content-length": "65537"}, 413),
        ({"content-type": "application/json", "content-length": "2, 2"}, 400),
        ({"content-type": "application/json", "content-encoding": "br"}, 400),
    ],
)
def test_heads(headers: dict[str, str], status: int | None) -> None:
    """The head alone says whether a body is worth reading."""
    assert head_fault(Post(method="POST", path="", query=False, headers=headers)) == status


@pytest.mark.parametrize(
    ("path", "root", "public", "below"),
    [
        ("/T", "", "https://me.example", "T"),
        ("/hooks/T", "/hooks", "https://me.example/hooks", "T"),
        ("/T", "/hooks", "https://me.example/hooks", "T"),
        ("/hooks/T", "", "https://me.example/hooks/", "T"),
        ("/app/hooks/T", "/app/hooks", "https://me.example/hooks", "T"),
        ("/other/T", "/hooks", "https://me.example/hooks", ""),
        ("//T", "", "https://me.example", ""),
        ("/hooks", "/hooks", "https://me.example/hooks", "hooks"),
        ("", "", "https://me.example", ""),
    ],
)
def test_mounted(path: str, root: str, public: str, below: str) -> None:
    """Wherever the app is mounted, and whether or not the server still shows that, the path is what comes after it."""
    assert _below(path, root, urlsplit(Receiver(public)._base).path) == below


async def asgi(scope: dict[str, Any], *messages: dict[str, Any]) -> list[Any]:
    """What the app sends when it receives these messages."""
    left, sent = iter(messages), list[Any]()

    async def receive() -> Any:
        return next(left)

    async def send(message: Any) -> None:
        sent.append(message.get("status", message["type"]))

    await Receiver("https://me.example").asgi_app()(scope, receive, send)
    return sent


async def test_asgi_besides_http() -> None:
    """A server's start and end are acknowledged, a websocket is turned away, a sender that goes does no harm."""
    life = [{"type": f"lifespan.{word}"} for word in ("startup", "shutdown")]
    assert await asgi({"type": "lifespan"}, *life) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert await asgi({"type": "websocket"}, {"type": "websocket.connect"}) == ["websocket.close"]
    scope = {"type": "http", "method": "POST", "path": "/T", "query_string": b"", "headers": [], "http_version": "2"}
    assert await asgi(scope, {"type": "http.disconnect"}) == [404, "http.response.body"]


def test_decode() -> None:
    """People with a receiver of their own get a snapshot or a `CallbackError`."""
    snapshot = decode(b'{"task_id": "1", "task_status": "failed", "task_status_msg": "too dark"}')
    assert (snapshot.task_id, snapshot.status, snapshot.message) == ("1", Status.FAILED, "too dark")
    assert decode(BODY).status is Status.SUCCEED
    with pytest.raises(CallbackError):
        decode(b"[]")


def hints(callbacks: Any = None, *, public_only: bool = True, rows: Iterable[Creation] = ()) -> tuple[Hints, list[tuple[Any, bool]]]:
    """What a session expects, and what it was asked to look at."""
    asked: list[tuple[Any, bool]] = []

    async def earlier() -> Iterable[Creation]:
        return rows

    made = Hints(
        callbacks=callbacks,
        earlier=earlier,
        clock=SystemClock(),
        binding=Binding(),
        look_soon=lambda task, final: asked.append((task, final)),
        public_only=public_only,
    )
    return made, asked


UNREACHABLE = (
    "http://me.example/",
    "https://localhost/",
    "https://LOCALHOST./",
    "https://a.localhost:8443/x",
    "https://127.0.0.1/",
    "https://10.1.2.3/",
    "https://192.168.0.1:444/",
    "https://169.254.169.254/",
    "https://[::1]/",
    "https://[fd00::1]/",
    "https://0x7f.1/",
    "https://2130706433/",
    "https://127.1/",
    "https://0177.0.0.1/",
)


@pytest.mark.row("V10")
@pytest.mark.parametrize("url", UNREACHABLE)
def test_unreachable(url: str) -> None:
    """Where the service is not on this machine, callbacks go to public https addresses only, the receiver's included."""
    made, _ = hints()
    with pytest.raises(InvalidJobError, match="callback_url") as refused:
        made.vet(Text2Video(prompt="a fox", callback_url=url))
    assert refused.value.field == "callback_url"
    hints(public_only=False)[0].vet(Text2Video(prompt="a fox", callback_url=url))
    with pytest.raises(ConfigurationError, match="public URL"):
        hints(Receiver(url))


@pytest.mark.parametrize(
    "url",
    ["https://me.example/x?token=1", "https://8.8.8.8/", "https://[2606:4700::1111]/", "https://0xg.example/", "https://7.example:8443/"],
)
def test_reachable(url: str) -> None:
    """Names and public addresses are fine."""
    hints()[0].vet(Text2Video(prompt="a fox", callback_url=url))


@pytest.mark.row("V10")
@pytest.mark.parametrize("url", ["ftp://me.example/", "me.example", "https://u:p@me.example/", "https://me.example/#a", "https:///x", ""])
def test_no_callback_url(url: str) -> None:
    """What is no web address, or holds a password or a fragment, makes no job."""
    with pytest.raises(InvalidJobError) as refused:
        Text2Video(prompt="a fox", callback_url=url)
    assert refused.value.field == "callback_url"
    assert refused.value.rule


def test_hurried() -> None:
    """Who says that there is something to see has it looked at now, not twice in a second, and not sooner after a failure."""
    task = watch()
    assert task.next_look == 110
    task.hurry(103.0)
    assert task.next_look == 103
    task.looking(103.0)
    task.hurry(103.2)  # while the look is under way
    see(task, PROCESSING, now=103.5)
    assert task.next_look == 104
    task.looking(104.0)
    see(task, PROCESSING, now=104.1)
    assert task.next_look > 108
    see(task, DROPPED, now=110.0, hint=30.0)
    task.hurry(111.0)
    assert task.next_look == 140
    task.looking(140.0)
    see(task, SUCCEEDED, now=140.0)
    later = task.next_look
    task.hurry(150.0)
    assert task.next_look == later


def test_pace_where_posts_come() -> None:
    """Where posts are expected the first look waits until nearly all of a kind are done; what a user says is obeyed."""
    kinds = [kind_asked(route, {}) for route in ("images/generations", "images/kolors-virtual-try-on", "videos/x")]
    assert [Paces(Polling()).of(kind, called=True).first for kind in kinds] == [40.0, 30.0, 480.0]
    assert Paces(Polling(first=3.0)).of(kinds[2], called=True).first == 3.0
    bounded = Paces(Polling(queued_timeout=60.0))
    assert bounded.of(kinds[2], called=True) == bounded.of(kinds[2])


@pytest.mark.row("H1")
async def test_compared_as_a_whole() -> None:
    """A digest that begins like one that is expected is not it, and what is over, or was never bought, is not known."""
    made, asked = hints(Receiver("https://me.example"))
    issued = made.issue()
    assert issued is not None
    made.expect("ka-1", issued.digest)
    assert await made.knows(issued.digest)
    assert not await made.knows(issued.digest[:8] + bytes(24))
    made.hint(issued.digest[:8] + bytes(24), final=True)
    made.over("ka-1")
    assert not await made.knows(issued.digest)
    made.expect("ka-2", issued.digest)
    made.forget(issued.digest)
    assert not await made.knows(issued.digest)
    assert not asked


def test_no_posts_no_slower_looks() -> None:
    """A task that ends without any post has the next ones looked at as usual, until a post comes."""
    made, _ = hints(Receiver("https://me.example"))
    for number in range(3):
        made.expect(f"ka-{number}", digest_of(str(number)))
    assert made.expects("ka-0")
    made.over("ka-0")
    assert not made.expects("ka-1")
    made.hint(digest_of("1"), final=False)
    assert made.expects("ka-1")
    assert made.expects("ka-2")
    made.over("ka-1")
    assert made.expects("ka-2")


async def test_loaded_once() -> None:
    """What an earlier process expected is read with the first post, and only then."""
    row = Creation(key="ka-9", account="a", origin="o", action="videos", action2="x", request="", digest="", callback_hash=digest_of("t"))
    made, _ = hints(Receiver("https://me.example"), rows=[row])
    assert not made.expects("ka-9")
    assert all(await asyncio.gather(*(made.knows(digest_of("t")) for _ in range(10))))
    assert made.expects("ka-9")
