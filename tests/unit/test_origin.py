"""Where an archive may come from: an address has one reading or none, and nobody prints what opens it."""

import re
import time
from urllib.parse import quote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchserve_guard import origin
from torchserve_guard.origin import Scheme, redacted
from torchserve_guard.terms import Terms


@pytest.mark.parametrize(
    ("text", "scheme", "host", "port", "name"),
    [
        ("https://models.example.com/m.mar", Scheme.HTTPS, "models.example.com", None, "m.mar"),
        (
            "https://Models.Example.COM:8443/a/b/m.mar?v=1&sig=%2Bx/y==",
            Scheme.HTTPS,
            "models.example.com",
            8443,
            "m.mar",
        ),
        ("https://1.2.3.4/my%20models/m.tar.gz", Scheme.HTTPS, "1.2.3.4", None, "m.tar.gz"),
        ("https://[2001:db8::1]:443/m.mar", Scheme.HTTPS, "[2001:db8::1]", 443, "m.mar"),
        ("https://localhost/m.mar", Scheme.HTTPS, "localhost", None, "m.mar"),
        ("s3://bucket.name/a/m.mar", Scheme.S3, "bucket.name", None, "m.mar"),
        ("gs://bucket/m.mar", Scheme.GS, "bucket", None, "m.mar"),
        ("file:///srv/models/m.mar", Scheme.FILE, "", None, "m.mar"),
    ],
)
def test_an_address_is_read(text, scheme, host, port, name):
    found = origin.parse(text)
    assert (found.scheme, found.host, found.port, found.name) == (scheme, host, port, name)
    assert found.url == text


@pytest.mark.parametrize(
    "text",
    [
        # who asks
        "https://user@host/m.mar", "https://user:pw@host/m.mar", "https://ok.example@evil.example/m.mar",
        "https://ok.example%40evil.example/m.mar", "https://@host/m.mar",
        # other spellings of 127.0.0.1 and of 169.254.169.254
        "https://2130706433/m.mar", "https://0x7f000001/m.mar", "https://0177.0.0.1/m.mar", "https://127.1/m.mar",
        "https://0x7f.1/m.mar", "https://127.0.0.0x1/m.mar", "https://127.0.0.1./m.mar", "https://1.2.3.4.5/m.mar",
        "https://[::1%25lo]/m.mar", "https://[::1/m.mar", "https://::1/m.mar", "https://[1.2.3.4]/m.mar",
        "https://\u2460\u2461\u2466.0.0.1/m.mar", "https://169\u3002254.169.254/m.mar", "https://ex\u00e4mple.com/m.mar",
        "https://0x/m.mar", "https://host.0x7f/m.mar",
        # ports
        "https://host:/m.mar", "https://host:0/m.mar", "https://host:065/m.mar", "https://host:65536/m.mar",
        "https://host:443:443/m.mar", "https://host:+443/m.mar",
        # what one reader takes for the host, and another does not
        "https://ok.example\\@evil.example/m.mar", "https:\\\\host/m.mar", "https:///m.mar", "https:/host/m.mar",
        "https:host/m.mar", "//host/m.mar", " https://host/m.mar", "https://host /m.mar", "https://host\t/m.mar",
        "https://host\n.evil/m.mar", "https://host#@evil/m.mar", "https://host?@evil/m.mar", "https://-host/m.mar",
        "https://ho_st/m.mar", "https://host../m.mar", "https://a..b/m.mar",
        # paths
        "https://host/../m.mar", "https://host/a/../m.mar", "https://host/./m.mar", "https://host//m.mar",
        "https://host/%2e%2e/m.mar", "https://host/a%2fm.mar", "https://host/a%5Cm.mar", "https://host/%00/m.mar",
        "https://host/a%zz/m.mar", "https://host/m.mar#x", "https://host/m.mar?a=..", "https://host/\u00e4/m.mar",
        # names
        "https://host", "https://host/", "https://host/m.mar/", "https://host/m", "https://host/m.zip", "https://host/m.war",
        "https://host/.mar", "https://host/my%20m.mar", "https://host/m.mar%00", "https://host/-m.mar", "https://host/m%2emar",
        "https://host/m.mar;x", "https://host/?m.mar",
        # schemes
        "http://host/m.mar", "HTTP://host/m.mar", "HTTPS://host/m.mar", "ftp://host/m.mar", "jar:file:///m.mar",
        "javascript://host/m.mar", "gopher://host/m.mar", "S3://bucket/m.mar", "://host/m.mar", "data://host/m.mar",
        # buckets and files
        "s3://b/m.mar", "s3://bucket/m.mar?versionId=1", "s3://bucket:80/m.mar", "s3://Bucket/m.mar", "s3://bucket/a%41/m.mar",
        "s3://bucket/*/m.mar", "s3:///m.mar", "gs://user@bucket/m.mar", "file://host/m.mar", "file:/m.mar",
        "file:///a/../m.mar", "file:///m.mar?x", "file://localhost/m.mar", "file:///a%20b/m.mar", "file:m.mar",
        "https://host/" + "a" * 2048 + "/m.mar", "",
    ],
)  # fmt: skip
def test_an_address_with_two_readings_is_none(text):
    with pytest.raises(ValueError, match=r"."):
        origin.parse(text)


def test_clear_text_is_refused_with_what_to_use_instead():
    with pytest.raises(ValueError, match="use `https://`"):
        origin.parse("http://host/m.mar")


@given(st.text("abc.:/@?#%0x7[]\\ -_2eE", max_size=40))
def test_what_is_read_is_what_others_read(rest):
    """The host that Python's own reader finds in the same text is the one that is connected to."""
    text = f"https://{rest}/m.mar"
    try:
        found = origin.parse(text)
    except ValueError:
        return
    other = urlsplit(text)
    assert (other.hostname, other.port) == (found.host.strip("[]"), found.port)
    assert other.path == found.path
    assert other.username is None
    assert found.path.endswith(found.name)


SECRET = "hunter2"


@pytest.mark.parametrize(
    "text",
    [
        "https://host/m.mar?X-Amz-Signature=hunter2",
        "https://user:hunter2@host/m.mar",
        "https://hunter2@host/m.mar",
        "https://user:hun@ter/hunter2@host/m.mar",
        "https://user:hunter2?x@host/m.mar",
        "//user:hunter2@host/m.mar",
        "bucket.s3.amazonaws.com/m.mar?X-Amz-Security-Token=hunter2",
        "m.mar?a=1&sig=hunter2",
        "/models?url=https://host/m.mar?X-Amz-Credential=1&X-Amz-Signature=hunter2",
        "/models?initial_workers=1&url=https://u:hunter2@host/m.mar",
        "load_models=a.mar,https://host/m.mar?q=hunter2,b.mar",
        "twice `https://a/m.mar?b` and https://u:hunter2@host/m.mar",
    ],
)
@pytest.mark.parametrize("escapes", [0, 1, 2])
def test_what_opens_an_address_is_left_out_however_it_is_escaped(text, escapes):
    target = text
    for _ in range(escapes):
        target = quote(target, safe="/ `") if escapes == 1 else quote(target, safe="")
    assert SECRET not in redacted(target)


@pytest.mark.parametrize(
    "text",
    [
        "https://host/m.mar", "/models?url=m.mar&initial_workers=1", "model/a@b", "unix:/run/x.sock",
        "/predictions/m/1.0",
        "`a.mar`: has 12 bytes, and the manifest lists 13", "/models/noop?min_worker=1&synchronous=true", "a=b", "100%",
    ],
)  # fmt: skip
def test_what_opens_nothing_is_left_as_it_is(text):
    assert redacted(text) == text


def test_an_origin_prints_no_query():
    found = origin.parse("https://host/m.mar?sig=hunter2")
    assert SECRET not in f"{found} {found!r}"
    assert found.target == "/m.mar?sig=hunter2"


@pytest.mark.parametrize("piece", ["/", "//", "%2f", "%25", "?a", "?a=", "@/", "://", "://?", "a=%3f", "%2525"])
def test_leaving_out_takes_no_longer_for_what_was_made_to_take_long(piece):
    text = "//" + piece * (200_000 // len(piece))
    began = time.process_time()
    redacted(text)
    assert time.process_time() - began < 5


def test_without_expressions_nothing_is_allowed():
    with pytest.raises(ValueError, match="allowed_urls"):
        Terms().verify_allowed(origin.parse("https://host/m.mar"))


def test_an_expression_must_match_the_whole_address_with_its_query():
    terms = Terms(allowed=(re.compile(r"https://host/m\.mar"),))
    terms.verify_allowed(origin.parse("https://host/m.mar"))
    with pytest.raises(ValueError, match="allowed_urls"):
        terms.verify_allowed(origin.parse("https://host/m.mar?x=1"))
