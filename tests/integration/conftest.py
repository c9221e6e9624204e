"""The gRPC door is tested in the loop that it runs in; archives from elsewhere come from one host for each module."""

import asyncio

import origins
import pytest
import uvloop


def pytest_asyncio_loop_factories(config, item):
    # The plugin takes no None: what is not the gRPC door's runs in the loop that it would have run in.
    grpc = item.path.name.startswith("test_grpc")
    return {"uvloop": uvloop.new_event_loop} if grpc else {"asyncio": asyncio.new_event_loop}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """An HTTPS host that has what a test gives it."""
    with origins.host(tmp_path_factory.mktemp("host")) as serving:
        yield serving


@pytest.fixture
def forgotten(site):
    """What a test tells the host is forgotten after it."""
    yield
    site.forget()
