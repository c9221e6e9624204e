"""What an archive may hold is told by settings or options, and who refuses it for that names which."""

import sys
from datetime import UTC, datetime
from typing import get_args

import pytest
from corpus.archives import GOOD, Entry, archive, bomb

from torchserve_guard import allotment, archives
from torchserve_guard.archives.limits import Limits, Told
from torchserve_guard.cli import archive_limits, main
from torchserve_guard.errors import ConfigError, VerificationError
from torchserve_guard.obtaining import obtain
from torchserve_guard.preflight import preflight
from torchserve_guard.registration import Registration
from torchserve_guard.settings import Flags, Surroundings, load
from torchserve_guard.settings.keys import KEYS
from torchserve_guard.settings.load import archive_of
from torchserve_guard.wire import Listener, classify

NOW = datetime(2030, 1, 1, tzinfo=UTC)
MEMBERS, UNPACKED, RATIO = (f"guard.archive_max_{name}" for name in ("members", "unpacked", "ratio"))
OVER = [(f"{MEMBERS}=2", MEMBERS), (f"{UNPACKED}=1000", UNPACKED), (f"{RATIO}=100", RATIO)]
TAKEN = [f"{MEMBERS}=3", f"{UNPACKED}=320000000", f"{RATIO}=1032"]


@pytest.fixture
def settings(tmp_path):
    """Settings with one archive of three members, or another, which a manifest lists unless it is not to."""

    def make(*lines: str, data: bytes | None = None, listed: bool = True):
        models = tmp_path / "models"
        models.mkdir(exist_ok=True)
        (models / "m.mar").write_bytes(data or archive(*GOOD, Entry("weights.bin", bytes(1000))))
        if listed:
            everything = Limits(ratio=1032)
            made = archives.create_manifest(models, None, version=1, created=NOW, limits=everything)
            (models / "tsguard-manifest.json").write_bytes(archives.render_manifest(made))
        config = tmp_path / "config.properties"
        profile = "strict" if listed else "compat"
        config.write_text("\n".join(["model_store=models", "load_models=m.mar", f"guard.profile={profile}", *lines]))
        return load(config, Flags(), Surroundings({}, tmp_path, tmp_path))

    return make


def test_the_defaults_are_the_same_wherever_they_are_written(settings):
    default = Limits()
    assert allotment.limits(settings()) == Limits(told=Told.SETTINGS)
    assert [KEYS[name].default for name in (MEMBERS, UNPACKED, RATIO)] == [
        str(one) for one in (default.members, default.unpacked, default.ratio)
    ]
    options = (archive_limits.Members, archive_limits.Unpacked, archive_limits.Ratio)
    assert Limits(archive_limits.MEMBERS, archive_limits.UNPACKED, archive_limits.RATIO) == default
    for key, option in zip((MEMBERS, UNPACKED, RATIO), options, strict=True):
        told = get_args(option)[1]
        assert (told.min, told.max) == (KEYS[key].low, KEYS[key].high)
        name = told.default.removeprefix("--max-")
        assert key in Told.SETTINGS.remedy(name)
        assert told.default in Told.OPTIONS.remedy(name)


@pytest.mark.parametrize("line", [f"{MEMBERS}=0", f"{MEMBERS}=100001", f"{UNPACKED}=0", f"{RATIO}=1033", f"{RATIO}=x"])
def test_a_limit_out_of_its_range_is_an_error(settings, line):
    with pytest.raises(ConfigError, match=line.partition("=")[0]):
        settings(line)


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize(("line", "key"), OVER)
def test_a_start_refuses_what_is_over_a_limit_and_names_the_key(settings, tmp_path, line, key, listed):
    data = bomb() if key == RATIO else None
    with pytest.raises(VerificationError, match=rf"m\.mar: .* raise `{key}` \[limit-"):
        preflight(settings(line, data=data, listed=listed), archives.Store(tmp_path / "store"), NOW)


@pytest.mark.parametrize("listed", [True, False])
def test_a_start_takes_what_is_within_the_limits_that_it_was_told(settings, tmp_path, listed):
    found = preflight(settings(*TAKEN, data=bomb(), listed=listed), archives.Store(tmp_path / "store"), NOW)
    assert [model.model for model in found.models] == ["m"]


@pytest.mark.parametrize(("line", "key"), OVER[:2])
async def test_a_registration_refuses_it_too(settings, tmp_path, line, key):
    told, exposed = settings("model-control-mode=explicit", line), tmp_path / "exposed"
    registration = Registration(told, archives.Store(tmp_path / "store"), exposed, tmp_path / "links", lambda: NOW)
    with pytest.raises(VerificationError, match=key):
        await registration.prepare(classify(Listener.MANAGEMENT, "POST", b"/models?url=m.mar"))
    assert not exposed.exists()


def test_a_tree_that_was_staged_under_wider_limits_is_held_to_those_that_count_now(settings, tmp_path):
    store = archives.Store(tmp_path / "store")
    preflight(settings(), store, NOW)
    with pytest.raises(VerificationError, match=MEMBERS):
        preflight(settings(f"{MEMBERS}=2"), store, NOW)


def test_an_archive_from_elsewhere_is_held_to_them_before_it_is_asked_for(settings, tmp_path):
    told = settings(f"{MEMBERS}=2", "allowed_urls=https://models\\\\.example/.*")
    (entry,) = archives.load_manifest(told.manifest, NOW).subjects
    item = archive_of("https://models.example/m.mar")
    with pytest.raises(VerificationError, match=rf"^m\.mar: .*{MEMBERS}"):
        obtain(told, archives.Store(tmp_path / "store"), [(item, entry)])


def test_commands_without_a_configuration_have_options(settings, tmp_path, monkeypatch, capsys):
    store = settings(data=bomb(), listed=False).model_store

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["tsguard", *map(str, arguments)])
        try:
            main()
        except SystemExit as ended:
            return ended.code or 0, capsys.readouterr().err
        return 0, capsys.readouterr().err

    # What cannot be listed could not be loaded whatever the settings say.
    commands = (("manifest", "create", store), ("inspect", store / "m.mar"))
    for command in (*commands, ("manifest", "diff", store / "m.mar", store / "m.mar")):
        code, said = run(*command)
        assert (code, "raise `--max-ratio` [limit-ratio]" in said) == (4, True), said
        assert run(*command, "--max-ratio", 1032)[0] == 0
    assert run("manifest", "verify", store) == (0, "")


def test_what_a_manifest_lists_may_be_compared_whatever_its_size(tmp_path, monkeypatch):
    """`manifest verify` reads a directory member by member, and unpacks nothing."""
    store = tmp_path / "models"
    (store / "d" / "MAR-INF").mkdir(parents=True)
    for entry in GOOD:
        (store / "d" / entry.name).write_bytes(entry.data)
    for number in range(30):
        (store / "d" / f"{number}.txt").write_bytes(b"x")
    wide = Limits(members=100)
    made = archives.create_manifest(store, None, version=1, created=NOW, limits=wide)
    monkeypatch.setattr("torchserve_guard.archives.reading.Limits", lambda **told: Limits(**{"members": 10} | told))
    archives.verify_store(made, store)
    (store / "d" / "added.txt").write_bytes(b"x")
    with pytest.raises(VerificationError, match=r"`added.txt` is not listed"):
        archives.verify_store(made, store)
