"""The configurations that TorchServe ships: each is taken in the profile `compat`, or refused with its remedy."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import javaproperties
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from torchserve_guard.errors import ConfigError
from torchserve_guard.settings import Flags, Settings, Surroundings, load

CORPUS = yaml.safe_load((Path(__file__).parents[2] / "corpus" / "torchserve_configs.yaml").read_text("utf-8"))
# What the files name and this machine does not have.
STAND_INS = {
    "model_store": "store",
    "workflow_store": "store",
    "private_key_file": "key.pem",
    "certificate_file": "certificate.pem",
    "metrics_config": "metrics.yaml",
}
SAGEMAKER = {
    "SAGEMAKER_BIND_TO_PORT": "8080",
    "SAGEMAKER_RESPONSE_TIMEOUT": "60",
    "SAGEMAKER_NUM_MODEL_WORKERS": "1",
    "SAGEMAKER_HANDLER": "serve.py:handle",
    "SAGEMAKER_MAX_RESPONSE_SIZE": "6553500",
    "SAGEMAKER_MAX_REQUEST_SIZE": "6553500",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A folder with a store, a key, its certificate and a metrics configuration."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "store").mkdir()
    (folder / "metrics.yaml").write_text("ts_metrics: {}\n")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=90))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, pkcs8, open_ = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(pem, pkcs8, open_))
    (folder / "key.pem").chmod(0o600)
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(pem))
    return folder


def loaded(world: Path, properties: dict[str, str], profile: str) -> Settings:
    """Load one of the files, with what is there in the place of what it names."""
    here = {
        key: str(world / STAND_INS[key]) if key in STAND_INS and "$$" not in value else value
        for key, value in properties.items()
    }
    config = world / "config.properties"
    config.write_text(javaproperties.dumps(here, timestamp=None))
    store = None if "model_store" in properties else str(world / "store")
    environment = {**SAGEMAKER, "SAGEMAKER_MODEL_STORE": str(world / "store")}
    return load(config, Flags(model_store=store, profile=profile), Surroundings(environment, world, world))


@pytest.mark.parametrize("path", [path for path, told in CORPUS["files"].items() if not told["refused"]])
def test_a_configuration_of_torchserves_own_is_taken(world, path):
    properties = CORPUS["files"][path]["properties"]
    settings = loaded(world, properties, "compat")
    wanted = properties.get("enable_model_api", "false") == "true"
    assert settings.mode.value == ("explicit" if wanted else "none")
    assert str(settings.inference) == properties.get("inference_address", "http://127.0.0.1:8080")


@pytest.mark.parametrize("path", [path for path, told in CORPUS["files"].items() if told["refused"]])
def test_a_configuration_that_is_refused_names_each_key_and_its_remedy(world, path):
    told = CORPUS["files"][path]
    with pytest.raises(ConfigError) as caught:
        loaded(world, told["properties"], "compat")
    for key in told["refused"]:
        about = [text for text in caught.value.complaints if f"`{key}=" in text]
        assert len(about) == 1
        assert CORPUS["remedies"][key] in about[0]
    assert len(caught.value.complaints) == len(told["refused"])


@pytest.mark.parametrize("path", CORPUS["files"])
def test_the_profile_strict_takes_no_file_that_compat_refuses(world, path):
    if CORPUS["files"][path]["refused"]:
        with pytest.raises(ConfigError):
            loaded(world, CORPUS["files"][path]["properties"], "strict")
    else:
        settings = loaded(world, CORPUS["files"][path]["properties"], "strict")
        assert not settings.keyless_management


def test_the_corpus_is_whole():
    assert len(CORPUS["files"]) == 49
    assert {key for told in CORPUS["files"].values() for key in told["refused"]} == CORPUS["remedies"].keys()
