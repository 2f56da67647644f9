"""What is known of a server, and the address its routes hang under."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kling_async._profile import GATEWAY, OFFICIAL, Profile, base_url, on_loopback, origin_of, profile_named
from kling_async.errors import ConfigurationError

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("text", "profile", "expected"),
    [
        ("https://gw.example", GATEWAY, "https://gw.example/kling/v1"),
        ("https://gw.example/", GATEWAY, "https://gw.example/kling/v1"),
        ("https://gw.example///", GATEWAY, "https://gw.example/kling/v1"),
        ("https://gw.example/kling/v1", GATEWAY, "https://gw.example/kling/v1"),
        ("https://gw.example/kling/v1/", GATEWAY, "https://gw.example/kling/v1"),
        ("https://gw.example/mount", GATEWAY, "https://gw.example/mount/kling/v1"),
        ("https://gw.example/mount/kling/v1", GATEWAY, "https://gw.example/mount/kling/v1"),
        ("https://gw.example/xkling/v1", GATEWAY, "https://gw.example/xkling/v1/kling/v1"),
        ("https://gw.example/a%20b", GATEWAY, "https://gw.example/a%20b/kling/v1"),
        ("https://gw.example/v1", GATEWAY, "https://gw.example/v1/kling/v1"),
        ("https://api.example", OFFICIAL, "https://api.example/v1"),
        ("https://api.example/v1", OFFICIAL, "https://api.example/v1"),
        ("https://api.example/xv1", OFFICIAL, "https://api.example/xv1/v1"),
        ("HTTPS://GW.Example:443/Mount", GATEWAY, "https://gw.example/Mount/kling/v1"),
        ("https://gw.example:8443", GATEWAY, "https://gw.example:8443/kling/v1"),
        ("https://192.0.2.1:443", GATEWAY, "https://192.0.2.1/kling/v1"),
        ("https://[2001:DB8:0::1]:444", GATEWAY, "https://[2001:db8::1]:444/kling/v1"),
        ("http://localhost:8765", GATEWAY, "http://localhost:8765/kling/v1"),
        ("http://LOCALHOST:80", GATEWAY, "http://localhost/kling/v1"),
        ("http://127.0.0.1:8765", GATEWAY, "http://127.0.0.1:8765/kling/v1"),
        ("http://127.8.9.1", GATEWAY, "http://127.8.9.1/kling/v1"),
        ("http://[::1]:8765", GATEWAY, "http://[::1]:8765/kling/v1"),
    ],
)
@pytest.mark.row("V14")
def test_a_base_url_is_brought_to_one_form(text: str, profile: Profile, expected: str) -> None:
    """Slashes, case, default ports and a prefix already there make no difference; a mount path is kept."""
    assert base_url(text, profile) == expected
    assert base_url(expected, profile) == expected


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "stray newline"),
        (" https://gw.example", "stray newline"),
        ("https://gw.example\n", "stray newline"),
        ("https://gw.example/a b", "stray newline"),
        ("https://gw.ex\tample", "stray newline"),
        ("https://gw.example/\x00", "stray newline"),
        ("https://gw.ex\u00e4mple", "non-ASCII"),
        ("gw.example", "has no scheme; write https://"),
        ("gw.example:443", "has no scheme"),
        ("//gw.example", "has no scheme"),
        ("ftp://gw.example", "has no scheme"),
        ("https:gw.example", "has no scheme"),
        ("https://", "malformed host or port"),
        ("https:///path", "malformed host or port"),
        ("https://:443", "malformed host or port"),
        ("https://gw.example:0", "malformed host or port"),
        ("https://gw.example:65536", "malformed host or port"),
        ("https://gw.example:http", "malformed host or port"),
        ("https://gw..example", "malformed host or port"),
        ("https://gw.example\\evil.example", "malformed host or port"),
        ("https://[::1", "malformed host or port"),
        ("https://[gw.example]", "malformed host or port"),
        ("https://[fe80::1%25eth0]", "malformed host or port"),
        ("https://gw.example?model=x", "query or a fragment"),
        ("https://gw.example/?", "query or a fragment"),
        ("https://gw.example/#part", "query or a fragment"),
        (f"https://user:{SECRET}@gw.example", "pass the key as api_key"),
        (f"https://{SECRET}@gw.example", "pass the key as api_key"),
        ("https://@gw.example", "pass the key as api_key"),
        ("https://gw.example/a/../b", "'..'"),
        ("https://gw.example/./b", "'.'"),
        ("https://gw.example/a//b", "empty"),
        ("https://gw.example/100%", "percent-encoding"),
        ("https://gw.example/a\\b", "percent-encoding"),
    ],
)
@pytest.mark.row("V14")
def test_anything_else_is_refused_with_what_to_do(text: str, hint: str) -> None:
    """What is no plain address is a `ConfigurationError` that says what is wrong with it."""
    with pytest.raises(ConfigurationError, match="base URL") as caught:
        base_url(text, GATEWAY)
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        f"https://user:{SECRET}@gw.example",
        f"ftp://user:{SECRET}@gw.example",
        f"https://gw.example?key={SECRET}",
        f"http://user:{SECRET}@gw.example",
        f"https://user:{SECRET}@gw.example:port",
        f"https://user:{SECRET}@gw.example/ ",
        SECRET,
        f"https://gw.example/{SECRET}//x",
    ],
)
@pytest.mark.row("V14")
def test_a_refusal_never_repeats_what_may_be_secret(text: str) -> None:
    """User names, queries and paths stay out of the message."""
    with pytest.raises(ConfigurationError) as caught:
        base_url(text, GATEWAY)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "host", ["gw.example", "10.0.0.1", "192.168.1.1", "0.0.0.0", "localhost.example", "127.1", "0x7f.1", "2130706433", "[::2]"]
)
@pytest.mark.row("V14")
def test_plain_http_leaves_the_machine_only_when_told_to(host: str) -> None:
    """`http` to a host that is not plainly loopback needs `insecure=True`."""
    with pytest.raises(ConfigurationError, match=r"use https, or pass insecure=True"):
        base_url(f"http://{host}", GATEWAY)
    assert base_url(f"http://{host}", GATEWAY, insecure=True) == f"http://{host}/kling/v1"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://localhost:8765/kling/v1", True),
        ("https://127.0.0.2/x?y#z", True),
        ("http://[::1]:1", True),
        ("https://localhost.example", False),
        ("http://10.0.0.1", False),
        ("http://127.1", False),
        ("http://[::]", False),
    ],
)
def test_only_what_is_plainly_loopback_counts_as_this_machine(url: str, expected: bool) -> None:  # noqa: FBT001  a table's column
    """The text alone decides: no name is looked up."""
    assert on_loopback(url) is expected


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=60) | st.from_regex(r"https?://[ -~]{0,40}", fullmatch=True))
def test_any_text_gives_an_address_or_a_configuration_error(text: str) -> None:
    """No text makes `base_url` fail otherwise, and what it gives is in its one form."""
    try:
        base = base_url(text, GATEWAY, insecure=True)
    except ConfigurationError:
        return
    assert base.endswith("/kling/v1")
    assert not set("@?#\\ ") & set(base.partition("/kling/v1")[0].partition("//")[2].partition("/")[0])
    assert base_url(base, GATEWAY, insecure=True) == base
    assert base.startswith(origin_of(base) + "/")


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://GW.example/kling/v1", "https://gw.example"),
        ("HTTPS://gw.example:443", "https://gw.example"),
        ("http://127.0.0.1:80/x?y#z", "http://127.0.0.1"),
        ("https://gw.example:80/", "https://gw.example:80"),
        ("http://[::1]:8765/x", "http://[::1]:8765"),
    ],
)
def test_an_origin_is_scheme_host_and_unusual_port(url: str, origin: str) -> None:
    """Two spellings of one server have one origin."""
    assert origin_of(url) == origin


@pytest.mark.parametrize("url", ["", "/relative", "gw.example", "data:text/plain,x", f"https://user:{SECRET}@gw.example/"])
def test_what_has_no_origin_is_a_configuration_error(url: str) -> None:
    """No host, or a user name in front of it, is no origin."""
    with pytest.raises(ConfigurationError) as caught:
        origin_of(url)
    assert SECRET not in str(caught.value)


def test_profiles_are_found_by_name_or_taken_as_they_are() -> None:
    """The two names of the public contract work, and so does a profile of one's own."""
    own = attrs.evolve(GATEWAY, name="own", prefix="/relay/kling/v1", lists=True)
    assert profile_named("gateway") is GATEWAY
    assert profile_named("official") is OFFICIAL
    assert profile_named(own) is own
    assert base_url("https://gw.example", own) == "https://gw.example/relay/kling/v1"


def test_an_unknown_profile_names_the_known_ones() -> None:
    """A typing error costs one look at the message."""
    with pytest.raises(ConfigurationError, match=r"'gatway' is not known; use 'gateway' or 'official'"):
        profile_named("gatway")


def test_profiles_promise_nothing_that_is_not_known() -> None:
    """A flag nobody set is `False`, and no named profile claims what has never been verified (`reliability.md` 2.5)."""
    unknown = Profile(name="somewhere", prefix="/kling/v1")
    assert not any((unknown.finds_by_key, unknown.lists, unknown.json_error_means_not_charged))
    assert attrs.evolve(unknown, name="gateway") == GATEWAY
    assert (OFFICIAL.finds_by_key, OFFICIAL.lists, OFFICIAL.json_error_means_not_charged) == (True, True, False)


@pytest.mark.parametrize("prefix", ["", "/", "kling/v1", "/kling/v1/", "/kling//v1", "/../v1", "/kling v1", "/v1?x"])
def test_a_prefix_is_a_whole_path(prefix: str) -> None:
    """A profile that would spoil every URL cannot be made."""
    with pytest.raises(ConfigurationError, match=r"Profile.prefix: a path such as /kling/v1"):
        Profile(name="own", prefix=prefix)
