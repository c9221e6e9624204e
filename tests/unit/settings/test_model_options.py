"""What is said of models is held against what TorchServe understands."""

import json

import pytest

from torchserve_guard.settings.model_options import ModelOptions, parse


def said(**options: object) -> str:
    return json.dumps({"m": {"1.0": options}})


def test_what_torchserve_understands_is_taken():
    text = said(
        defaultVersion=True,
        marName="m.mar",
        minWorkers=1,
        maxWorkers=4,
        batchSize=8,
        maxBatchDelay=100,
        responseTimeout=120,
        startupTimeout=60,
        parallelLevel=0,
        runtimeType="python",
    )
    assert parse(text) == (ModelOptions("m", "1.0", "m.mar"),)


def test_as_many_workers_at_least_as_at_most_are_a_fixed_number():
    assert parse(said(minWorkers=2, maxWorkers=2)) == (ModelOptions("m", "1.0"),)


def test_nothing_may_be_said():
    assert parse("{}") == ()


def test_what_torchserve_ignores_is_noted():
    assert parse(said(minWorker=1, batchSize=1))[0].unknown == ("minWorker",)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("null", "it is not a JSON object"),
        ("[]", "it is not a JSON object"),
        ('{"m": 1}', "`m` is not a JSON object"),
        ('{"m": {"1.0": []}}', "`m` version `1.0` is not a JSON object"),
        ('{"../m": {}}', "model name"),
        (said(minWorkers=0), "from 1"),
        (said(minWorkers=-1), "from 1"),
        (said(minWorkers="2"), "from 1"),
        (said(minWorkers=1.5), "from 1"),
        (said(minWorkers=True), "from 1"),
        (said(maxBatchDelay=2**31), "from 1"),
        ('{"m": {"1.0": {"batchSize": NaN}}}', "not JSON"),
        ('{"m": {"1.0": {"batchSize": 1e400}}}', "from 1"),
        (said(minWorkers=3, maxWorkers=2), r"more `minWorkers` \(3\) than `maxWorkers` \(2\)"),
        (said(defaultVersion="true"), "neither true nor false"),
        (said(marName="../m.mar"), "bare name"),
        (said(marName="http://h/m.mar"), "bare name"),
        (said(marName=None), "bare name"),
        (said(runtimeType="LSP"), "PATH"),
        (said(runtimeType=["python"]), "PATH"),
        ('{"m": {"1.0": {"batchSize": 1, "batchSize": 2}}}', "`batchSize` twice"),
        ('{"m": {}, "m": {}}', "`m` twice"),
        ('{"m": {"1": {"defaultVersion": true}, "2": {"defaultVersion": true}}}', "2 default versions"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_what_torchserve_would_misunderstand_is_refused(text, why):
    with pytest.raises(ValueError, match=why):
        parse(text)
