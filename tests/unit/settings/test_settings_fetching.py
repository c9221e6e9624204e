"""On which terms archives are fetched, as the configuration says, and what it may not say."""

import ipaddress

import pytest

from torchserve_guard.errors import ConfigError
from torchserve_guard.origin import Scheme
from torchserve_guard.settings import Flags, LoadItem, Surroundings, load
from torchserve_guard.terms import Proxy, Terms

ALLOWED = "allowed_urls=https://models\\\\.example\\\\.com/.*,s3://models/.*,file:///srv/.*"


@pytest.fixture
def told(tmp_path):
    """Load a configuration of these lines."""
    (tmp_path / "store").mkdir()
    (tmp_path / "ca.pem").write_text("")

    def read(*lines, models=(), **environment):
        config = tmp_path / "config.properties"
        config.write_text("\n".join(("model_store=store", *lines)) + "\n")
        return load(config, Flags(models=models), Surroundings(environment, tmp_path, tmp_path))

    return read


def test_by_default_nothing_is_fetched_from_anywhere(told):
    assert told().terms == Terms()
    assert told().terms.allowed == ()


def test_the_terms_are_read(told, tmp_path):
    terms = told(
        ALLOWED,
        "guard.fetch_networks=10.1.0.0/16, 127.0.0.1 ,fd00::/8",
        "guard.fetch_ca=ca.pem",
        "guard.fetch_proxy=http://user:pw@proxy.example:3128",
        "guard.fetch_max_size=1000",
        "guard.fetch_timeout=10",
        "guard.fetch_stall_timeout=5",
    ).terms
    assert len(terms.allowed) == 3
    assert terms.networks == tuple(map(ipaddress.ip_network, ("10.1.0.0/16", "127.0.0.1", "fd00::/8")))
    assert terms.authorities == tmp_path / "ca.pem"
    assert terms.proxy == Proxy("proxy.example", 3128, "user:pw")
    assert (terms.largest, terms.timeout, terms.stall) == (1000, 10, 5)
    assert "pw" not in repr(terms.proxy)


@pytest.mark.parametrize(
    "line",
    [
        "guard.fetch_networks=10.1.0.1/16",
        "guard.fetch_networks=example.com",
        "guard.fetch_networks=10.0.0.0/33",
        f"guard.fetch_networks={','.join(['10.0.0.0/8'] * 101)}",
        "guard.fetch_ca=nowhere.pem",
        "guard.fetch_ca=store",
        "guard.fetch_proxy=https://proxy:3128",
        "guard.fetch_proxy=proxy:3128",
        "guard.fetch_proxy=http://proxy",
        "guard.fetch_proxy=http://proxy:0",
        "guard.fetch_proxy=http://proxy:65536",
        "guard.fetch_proxy=http://proxy:1/path",
        "guard.fetch_proxy=",
        "guard.fetch_max_size=0",
        "guard.fetch_timeout=0",
        "guard.fetch_timeout=604801",
        "guard.fetch_stall_timeout=0",
        "guard.fetch_stall_timeout=3601",
        "guard.fetch_stall_timeout=soon",
    ],
)
def test_what_makes_no_sense_is_refused_with_its_line(told, line):
    with pytest.raises(ConfigError, match=r"config.properties:2: `guard\.fetch_"):
        told(line)


def test_the_proxy_of_the_environment_is_used_when_the_file_says_so_and_its_password_is_not_shown(told):
    line = "guard.fetch_proxy=$$HTTPS_PROXY$$"
    assert told(line, HTTPS_PROXY="http://u:hunter2@p:1").terms.proxy == Proxy("p", 1, "u:hunter2")
    for lines in ((line,), ("guard.fetch_proxy=https://u:hunter2@p:1",)):
        with pytest.raises(ConfigError) as caught:
            told(*lines, HTTPS_PROXY="https://u:hunter2@p:1")
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("part", "model", "scheme", "target"),
    [
        ("https://models.example.com/a/m.mar", None, Scheme.HTTPS, "/a/m.mar"),
        ("other=https://models.example.com/m.mar", "other", Scheme.HTTPS, "/m.mar"),
        ("https://models.example.com/m.mar?a=b&c=d", None, Scheme.HTTPS, "/m.mar?a=b&c=d"),
        ("other=https://models.example.com/m.mar?a=b", "other", Scheme.HTTPS, "/m.mar?a=b"),
        ("s3://models/m.mar", None, Scheme.S3, "/m.mar"),
        ("file:///srv/m.mar", None, Scheme.FILE, "/srv/m.mar"),
    ],
)
def test_an_archive_from_elsewhere_has_the_name_that_torchserve_would_give_it(told, part, model, scheme, target):
    local, (item) = told(ALLOWED, f"load_models=noop.mar,{part}").load
    assert local == LoadItem("noop.mar")
    assert (item.archive, item.model, item.origin.scheme, item.origin.target) == ("m.mar", model, scheme, target)
    assert told(ALLOWED, models=(part,)).load == (item,)


@pytest.mark.parametrize(
    ("part", "why"),
    [
        ("http://models.example.com/m.mar", "use `https://`"),
        ("https://evil.example/m.mar", "matches no expression of `allowed_urls`"),
        ("https://models.example.com@evil.example/m.mar", "names a user before the host"),
        ("https://models.example.com.evil.example/m.mar", "matches no expression"),
        ("https://models.example.com/../m.mar", "contains `..`"),
        ("https://models.example.com/m.war", "does not end in the bare name"),
        ("file:///etc/m.mar", "matches no expression"),
        ("na/me=https://models.example.com/m.mar", "model name"),
    ],
)
def test_an_address_that_may_not_be_is_refused_and_says_why(told, part, why):
    with pytest.raises(ConfigError) as caught:
        told(ALLOWED, f"load_models={part}")
    assert why in str(caught.value)


@pytest.mark.parametrize(
    "part",
    [
        "https://user:hunter2@models.example.com/m.mar",
        "https://evil.example/m.mar?X-Amz-Signature=hunter2",
        "https://models.example.com/m.war?X-Amz-Signature=hunter2",
        "model=https://models.example.com/../m.mar?sig=hunter2",
        "models.example.com/m.mar?sig=hunter2",
    ],
)
def test_a_complaint_holds_no_secret_of_an_address(told, part):
    for lines, variables in (((f"load_models={part}",), {}), (("load_models=$$URL$$",), {"URL": part})):
        with pytest.raises(ConfigError) as caught:
            told(ALLOWED, *lines, **variables)
        assert "hunter2" not in str(caught.value)


def test_no_finding_and_no_settings_show_the_secret_of_an_address(told):
    settings = told(ALLOWED, "load_models=https://models.example.com/m.mar?sig=hunter2")
    assert "hunter2" not in repr(settings)
    assert not any("hunter2" in f"{one.message} {one.remedy}" for one in settings.findings)
