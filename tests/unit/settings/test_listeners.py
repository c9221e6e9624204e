"""The HTTP listeners: each on its own port, or on one that each was told to share."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchserve_guard.errors import ConfigError
from torchserve_guard.settings import Flags, Settings, Surroundings, load

ONE = "http://127.0.0.1:9000"


def loaded(folder: Path, *lines: str, profile: str | None = None) -> Settings:
    (folder / "store").mkdir(exist_ok=True)
    config = folder / "config.properties"
    config.write_text("".join(f"{line}\n" for line in ("model_store=store", *lines)))
    return load(config, Flags(profile=profile), Surroundings({}, folder, folder))


def said(**addresses: str) -> list[str]:
    return [f"{name}_address={address}" for name, address in addresses.items()]


@pytest.mark.parametrize(
    ("lines", "ports"),
    [
        (
            said(inference=ONE, management=ONE),
            {ONE: ("inference", "management"), "http://127.0.0.1:8082": ("metrics",)},
        ),
        (said(inference=ONE, management=ONE, metrics=ONE), {ONE: ("inference", "management", "metrics")}),
        (
            [*said(inference=ONE, management=ONE), "disable_token_authorization=true"],
            {ONE: ("inference", "management", "metrics"), "http://127.0.0.1:8082": ("metrics",)},
        ),
        ([*said(inference=ONE, management=ONE), "enable_metrics_api=false"], {ONE: ("inference", "management")}),
        (
            said(management=ONE, metrics=ONE),
            {"http://127.0.0.1:8080": ("inference",), ONE: ("management", "metrics")},
        ),
        (
            said(inference=ONE, metrics=ONE),
            {ONE: ("inference", "metrics"), "http://127.0.0.1:8081": ("management",)},
        ),
        (
            said(inference="unix:/run/one", management="unix:/run//one"),
            {"unix:/run/one": ("inference", "management"), "http://127.0.0.1:8082": ("metrics",)},
        ),
    ],
)
def test_listeners_share_a_port_only_where_each_key_says_so(tmp_path, lines, ports):
    assert {str(address): names for address, names in loaded(tmp_path, *lines).ports.items()} == ports


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (said(inference="http://127.0.0.1:8081"), "`inference_address=http://127.0.0.1:8081` is also the management"),
        (said(management="http://127.0.0.1:8080"), "`management_address=http://127.0.0.1:8080` is also the inference"),
        (said(management="http://127.0.0.1:8082"), "`management_address=http://127.0.0.1:8082` is also the metrics"),
        (said(inference=ONE, management="http://localhost:9000"), "in other words"),
        (said(inference=ONE, management="http://0.0.0.0:9000"), "in other words"),
        (said(inference=ONE, management="https://127.0.0.1:9000"), "in other words"),
        (said(inference=ONE, metrics="http://0.0.0.0:9000"), "in other words"),
        ([*said(inference=ONE, management=ONE), "grpc_inference_port=9000"], "is also the port of the inference"),
        (["grpc_inference_port=7071"], "is also the port of the grpc_inference listener"),
    ],
)
def test_a_port_that_is_shared_by_accident_or_by_half_is_refused(tmp_path, lines, complaint):
    with pytest.raises(ConfigError, match="give each") as caught:
        loaded(tmp_path, *lines)
    assert [text for text in caught.value.complaints if complaint in text]


def test_on_a_port_that_inference_shares_a_change_is_never_keyless(tmp_path):
    keyless = ["disable_token_authorization=true"]
    assert loaded(tmp_path, *keyless, profile="compat").keyless_management
    for shared in (said(inference=ONE, management=ONE), said(management=ONE, metrics=ONE)):
        assert not loaded(tmp_path, *keyless, *shared, profile="compat").keyless_management
