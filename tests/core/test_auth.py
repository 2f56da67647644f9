from __future__ import annotations

import base64
import hashlib
import hmac
import json
import pickle
import traceback
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kling_async._auth import ApiKey, Credentials, KeyPair, bearer, credentials_from, masked
from kling_async.errors import ConfigurationError

PAIR = KeyPair(access_key="access-c4n4ry", secret_key="secret-c4n4ry")
NOW = 1795341601.5
WALLS = st.floats(1.6e9, 4e9)


def read(token: str) -> tuple[dict[str, Any], dict[str, Any], bool]:
    """Header, claims, and whether the signature is the secret key's."""
    header, claims, signature = token.split(".")
    mac = hmac.new(b"secret-c4n4ry", f"{header}.{claims}".encode(), hashlib.sha256).digest()
    return unpad(header), unpad(claims), base64.urlsafe_b64encode(mac).decode().rstrip("=") == signature


def unpad(part: str) -> dict[str, Any]:
    """The JSON in one part of a token."""
    value: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return value


def test_a_key_is_sent_as_it_is() -> None:
    """A gateway's key is the bearer text."""
    assert bearer(ApiKey("sk-1"), NOW) == "sk-1"


def test_a_pair_is_signed() -> None:
    """A token is a JWT: HS256, issued by the access key, signed with the secret key (`api.md` 6.2)."""
    header, claims, genuine = read(bearer(PAIR, NOW))
    assert header == {"alg": "HS256", "typ": "JWT"}
    assert claims["iss"] == "access-c4n4ry"
    assert set(claims) == {"iss", "exp", "nbf"}
    assert genuine
    assert "=" not in bearer(PAIR, NOW)


@given(WALLS)
def test_a_token_that_is_sent_is_valid(wall: float) -> None:
    """At the moment of sending a token is valid, and stays so for 25 minutes or more, and for 30 at the most."""
    _, claims, _ = read(bearer(PAIR, wall))
    assert claims["nbf"] <= wall - 5
    assert 1500 <= claims["exp"] - wall <= 1800


@given(WALLS)
def test_a_token_is_renewed(wall: float) -> None:
    """The same text serves for a while, and never once it has expired."""
    assert bearer(PAIR, wall) == bearer(PAIR, wall // 300 * 300)
    assert bearer(PAIR, wall) != bearer(PAIR, wall + 300)


@pytest.mark.parametrize("bad", ["", " sk-1", "sk-1\n", "sk 1", "sk-\u00e9", "sk-\x00"])
@pytest.mark.row("V13")
def test_what_cannot_be_a_key(bad: str) -> None:
    """A key that no header can carry is refused when it is given, and the message does not repeat it (V13)."""
    for make in (ApiKey, lambda text: KeyPair(access_key=text, secret_key="x"), lambda text: KeyPair(access_key="x", secret_key=text)):
        with pytest.raises(ConfigurationError, match="printable ASCII") as refused:
            make(bad)
        shown = traceback.TracebackException.from_exception(refused.value, capture_locals=True).stack
        assert "sk" not in str(refused.value) + str([frame.locals for frame in shown if frame.filename != __file__])


@pytest.mark.parametrize("credentials", [PAIR, ApiKey("api-key-c4n4ry")])
def test_a_key_in_a_reply(credentials: Credentials) -> None:
    """A refusal that repeats the key, or the token made from it, is read without it (P15); the rest stays as it is."""
    parts = (PAIR.access_key, PAIR.secret_key) if credentials is PAIR else ("api-key-c4n4ry",)
    for told in (*parts, bearer(credentials, NOW)):
        body = json.dumps({"code": 1000, "message": f"no such key: {told}!"}).encode()
        assert json.loads(masked(credentials, body)) == {"code": 1000, "message": "no such key: [masked]!"}


def test_short_keys_are_no_secrets() -> None:
    """A key that could be a word of the reply changes nothing in it, and neither do tokens of others."""
    others = bearer(KeyPair(access_key="somebody else's".replace(" ", "-"), secret_key="x"), NOW).encode()
    assert masked(PAIR, others) == others
    assert masked(ApiKey("task_id"), b'{"task_id": "1"}') == b'{"task_id": "1"}'


def test_no_secret_is_printed() -> None:
    """Credentials print their kind alone (P15)."""
    assert "c4n4ry" not in repr((PAIR, ApiKey("c4n4ry"))) + str(PAIR)


@pytest.mark.parametrize("credentials", [PAIR, ApiKey("sk-1")])
def test_given_credentials_are_taken(credentials: Credentials) -> None:
    """What the caller gives wins over the environment."""
    environ = {"KLING_API_KEY": "sk-env"}
    assert credentials_from(credentials, environ) is credentials
    assert credentials_from("sk-arg", environ) == ApiKey("sk-arg")
    assert credentials_from(None, environ) == ApiKey("sk-env")
    assert pickle.loads(pickle.dumps(credentials)) == credentials


def test_no_key_at_all() -> None:
    """Without a key the message says which variable to set, and how to do without."""
    with pytest.raises(ConfigurationError, match=r"KLING_API_KEY.*kling emulator"):
        credentials_from(None, {})


def test_an_empty_variable_is_no_key() -> None:
    """An empty variable is a mistake, not a key."""
    with pytest.raises(ConfigurationError):
        credentials_from(None, {"KLING_API_KEY": ""})


def test_a_pair_of_variables() -> None:
    """Access key and secret key come from the environment, too; a plain key goes before them, and half a pair is a mistake."""
    pair = {"KLING_ACCESS_KEY": PAIR.access_key, "KLING_SECRET_KEY": PAIR.secret_key}
    assert credentials_from(None, pair) == PAIR
    assert credentials_from(None, {**pair, "KLING_API_KEY": "sk-env"}) == ApiKey("sk-env")
    assert credentials_from("sk-arg", {"KLING_ACCESS_KEY": "half"}) == ApiKey("sk-arg")
    for half, missing in (("KLING_ACCESS_KEY", "KLING_SECRET_KEY"), ("KLING_SECRET_KEY", "KLING_ACCESS_KEY")):
        with pytest.raises(ConfigurationError, match=f"{half} is set, and {missing} is not") as caught:
            credentials_from(None, {half: pair[half]})
        assert "c4n4ry" not in str(caught.value)
