"""Where gRPC is served: TorchServe's keys, and port 0 for nowhere."""

import pytest

from torchserve_guard.errors import ConfigError
from torchserve_guard.settings.grpc_listeners import ConnectionAge
from torchserve_guard.settings.load import load
from torchserve_guard.settings.reading import Flags, Surroundings


@pytest.fixture
def loaded(tmp_path):
    def read(*lines: str):
        config = tmp_path / "config.properties"
        config.write_text("\n".join([f"model_store={tmp_path}", *lines]))
        return load(config, Flags(), Surroundings({}, tmp_path, tmp_path))

    return read


def shown(settings) -> dict[str, str]:
    return {name: str(address) for name, address in settings.grpc_listeners.items()}


def test_the_listeners_are_stocks_and_on_loopback_unless_it_is_said(loaded):
    assert shown(loaded()) == {"inference": "grpc://127.0.0.1:7070", "management": "grpc://127.0.0.1:7071"}
    settings = loaded("grpc_inference_address=0.0.0.0", "grpc_inference_port=9070")
    assert shown(settings)["inference"] == "grpc://0.0.0.0:9070"


def test_port_0_leaves_a_listener_closed(loaded):
    settings = loaded("grpc_management_port=0")
    assert settings.grpc_management is None
    assert list(shown(settings)) == ["inference"]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (("grpc_inference_port=7071",), "grpc_management_port` is also the port of the grpc_inference listener"),
        (("grpc_inference_port=8080",), "grpc_inference_port=8080` is also the port of the inference listener"),
        (
            ("grpc_management_address=0.0.0.0", "grpc_management_port=8081"),
            "is also the port of the management listener",
        ),
        (("grpc_inference_port=70000",), "grpc_inference_port"),
    ],
)
def test_two_listeners_on_one_port_are_refused_with_the_remedy(loaded, lines, told):
    with pytest.raises(ConfigError) as caught:
        loaded(*lines)
    assert told in str(caught.value)


def test_the_age_of_connections_is_the_guards_to_keep(loaded):
    settings = loaded(
        "grpc_inference_max_connection_age_ms=60000", "grpc_management_max_connection_age_grace_ms=9223372036854775807"
    )
    assert settings.grpc_ages == {
        "grpc_inference": ConnectionAge(60000, None),
        "grpc_management": ConnectionAge(None, 2**63 - 1),
    }
    assert not [key for key in settings.passthrough if key.startswith("grpc")]


def test_changes_without_a_key_end_where_grpc_management_can_be_reached_from_elsewhere(loaded):
    compat = ("guard.profile=compat", "disable_token_authorization=true", "model-control-mode=explicit")
    assert loaded(*compat).keyless_management
    assert not loaded(*compat, "grpc_management_address=10.0.0.1").keyless_management
    assert loaded(*compat, "grpc_management_address=10.0.0.1", "grpc_management_port=0").keyless_management
