"""What the model says stock TorchServe would use is what stock TorchServe says itself, in the dump at its start.

Each combination is started through stock's own launcher, in a folder of its own. The dump comes before any model is
loaded and before any port is listened on; what was started is ended as soon as it is read.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path

import psutil
import pytest
import servers

from torchserve_guard.errors import ConfigError
from torchserve_guard.explaining import explain
from torchserve_guard.frontend import find_torchserve, installed
from torchserve_guard.settings import Flags, Surroundings
from torchserve_guard.settings.stock import Chain, CommandLine, Stock, model
from torchserve_guard.settings.stock.chain import Origin, Step
from torchserve_guard.settings.stock.disk import RealDisk
from torchserve_guard.settings.stock.launcher import HOME
from torchserve_guard.shim import commandline

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

PATIENCE = 90.0
TORCHSERVE = "0.12.0"
LAST_LINE = "Model API enabled: "
USUAL = "--ts-config config.properties --model-store store"
# A JVM that starts sooner and knows how many processors there are; told by the environment, past the real launcher.
HASTE = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:ActiveProcessorCount=3"
LOGGING = """<Configuration><Appenders><Console name="out"><PatternLayout pattern="%m%n"/></Console></Appenders>
<Loggers><Root level="info"><AppenderRef ref="out"/></Root></Loggers></Configuration>"""
SNAPSHOT = "logs/config/20260101000000000-startup.cfg"
LATER = "logs/config/20260102000000000-shutdown.cfg"


@dataclass(frozen=True)
class Case:
    """One combination: the command line, the files by name, and the environment on top of the usual one."""

    name: str
    arguments: str = USUAL
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


def case(
    name: str, config: str | bytes | None = None, arguments: str = USUAL, *, files=None, **environment: str
) -> Case:
    """A case; `config` is config.properties, and stays away when it is None."""
    own = {} if config is None else {"config.properties": config}
    return Case(name, arguments, {**own, **(files or {})}, environment)


ENV = "enable_envvars_config=true\n"
CASES = (
    # the file alone, as Java reads it
    case("an empty file", ""),
    case("one key", "job_queue_size=7\nnumber_of_netty_threads=3\n"),
    case("a key twice: the last", "number_of_netty_threads=3\nnumber_of_netty_threads=4\n"),
    case("a colon", "number_of_netty_threads: 5\n"),
    case("a blank", "number_of_netty_threads 6\n"),
    case("an escaped key", "number_of_netty\\u005fthreads=8\n"),
    case("an escaped value", "load_models=\\u0041LL\n"),
    case("a continuation", "number_of_\\\n   netty_threads=9\n"),
    case("a continuation that hides", "x=1\\\nnumber_of_netty_threads=9\n"),
    case("a carriage return", "#c\rnumber_of_netty_threads=9\r"),
    case("a comment that does not go on", "#c\\\nnumber_of_netty_threads=9\n"),
    case("a trailing blank is kept", "blacklist_env_vars=AWS.* \nenable_model_api=true \n"),
    case("another case of the key", "Number_Of_Netty_Threads=9\n"),
    case("a word for a boolean", "disable_system_metrics=yes\nlimit_max_image_pixels=no\n"),
    case("a boolean in capitals", "disable_system_metrics=TRUE\nenable_model_api=True\n"),
    case("a metrics mode with blanks", "metrics_mode= pro metheus \n"),
    case("a metrics mode that is none", "metrics_mode=bogus\n"),
    case("addresses", "inference_address=http://0.0.0.0:18080\nmanagement_address=HTTP://localhost\n"),
    case("latin-1 in a comment is no UTF-8", b"# caf\xe9\nnumber_of_netty_threads=9\n"),
    case("UTF-8 is read as latin-1", "blacklist_env_vars=caf\u00e9\n".encode()),
    case("NBSP before a key", "\u00a0number_of_netty_threads=9\n".encode()),
    case("a byte order mark", b"\xef\xbb\xbfnumber_of_netty_threads=9\nnetty_client_threads=2\n"),
    case("a NUL", b"blacklist_env_vars=a\x00b\n"),
    case("a bad escape", "x=\\u00zz\n"),
    case("version, python and home in the file", "version=9.9\npython=/usr/bin/false\nmodel_server_home=/tmp\n"),
    case("GPUs beyond the machine's", "number_of_gpu=4\n"),
    case("fewer GPUs than none", "number_of_gpu=-1\n"),
    case("GPUs that are no number", "number_of_gpu=many\n"),
    case("GPUs by CUDA_VISIBLE_DEVICES", "", CUDA_VISIBLE_DEVICES="0,1,2"),
    case("the lesser of two numbers of GPUs", "number_of_gpu=2\n", CUDA_VISIBLE_DEVICES="0,1,2"),
    case("CUDA_VISIBLE_DEVICES by UUID", "", CUDA_VISIBLE_DEVICES="GPU-1"),
    # flags and the file
    case("--models beats load_models", "load_models=a.mar\n", f"{USUAL} --models b.mar x=c.mar"),
    case("quotes around a model", "", f'{USUAL} --models "a.mar" b"c'),
    case("--models given twice", "", f"{USUAL} --models b.mar --models c.mar d.mar"),
    case("--enable-model-api beats false", "enable_model_api=false\n", f"{USUAL} --enable-model-api"),
    case("--model-store beats the file", "model_store=other\n"),
    case("the launcher reads model_store", "model_store=other\n", "--ts-config config.properties"),
    case(
        "the launcher reads the last model_store",
        "model_store=store\nmodel_store=other\n",
        "--ts-config config.properties",
    ),
    case("the launcher trims model_store", "model_store = other \t\n", "--ts-config config.properties"),
    case("the launcher knows no colon", "model_store: other\n", "--ts-config config.properties"),
    case(
        "the launcher knows no escape",
        "model_store=store\nmodel_st\\u006fre=other\n",
        "--ts-config config.properties",
    ),
    case(
        "the launcher knows no continuation",
        "load_models=x\\\nmodel_store=other\n",
        "--ts-config config.properties",
    ),
    case("the launcher expands nothing", "model_store=$$WHERE$$\n", "--ts-config config.properties", WHERE="other"),
    case("a store that is not there", "model_store=nowhere\n", "--ts-config config.properties"),
    case("no store", "", "--ts-config config.properties"),
    case("a configuration that is not there", None),
    case("a workflow store of its own", "workflow_store=other\n"),
    case("--workflow-store beats the file", "workflow_store=store\n", f"{USUAL} --workflow-store other"),
    case("--workflow-store that is not there", "", f"{USUAL} --workflow-store nowhere"),
    case("--cpp-log-config", "cpp_log_config=x\n", f"{USUAL} --cpp-log-config config.properties"),
    case("abbreviated flags", "", "--ts config.properties --model-s other --enable --dis --nc"),
    case("flags with an equals sign", "", "--ts-config=config.properties --model-store=other"),
    case("an unknown flag", "", f"{USUAL} --strict"),
    case("an ambiguous flag", "", "--ts-config config.properties --mod store"),
    # the JVM's arguments
    case("vmargs", "vmargs=-Xmx128m -DLOG_LOCATION=elsewhere\n"),
    case("vmargs that Java does not see", "load_models=x\\\nvmargs=-DMETRICS_LOCATION=hidden\n"),
    case("vmargs that the launcher does not see", "vmargs: -Xmx128m\n"),
    case("vmargs and --log-config", "vmargs=-Dlog4j.configurationFile=x -Xmx128m\n", f"{USUAL} --log-config log.xml"),
    case("vmargs move the temporary folder", "vmargs=-Djava.io.tmpdir=other\n"),
    case("plugins", "plugins_path=other\n", f"{USUAL} --ppath store"),
    case("TS_DEBUG as a property of the JVM", "vmargs=-DTS_DEBUG=true\ndefault_workers_per_model=3\n"),
    case("TS_DEBUG in the environment is not read", "default_workers_per_model=3\n", TS_DEBUG="true"),
    # the environment
    case("TS_* without leave", "number_of_netty_threads=3\n", TS_NUMBER_OF_NETTY_THREADS="4"),
    case("TS_* beats the file", f"{ENV}number_of_netty_threads=3\n", TS_NUMBER_OF_NETTY_THREADS="4"),
    case(
        "TS_* beats a flag",
        ENV,
        f"{USUAL} --models a.mar --enable-model-api",
        TS_LOAD_MODELS="b.mar",
        TS_ENABLE_MODEL_API="no",
    ),
    case("TS_MODEL_STORE beats the flag, and leaves the workflows", ENV, TS_MODEL_STORE="other"),
    case("TS_NUMBER_OF_GPU is not bounded", f"{ENV}number_of_gpu=0\n", TS_NUMBER_OF_GPU="5"),
    case("leave in capitals", "enable_envvars_config=TRUE\n", TS_NETTY_CLIENT_THREADS="4"),
    case("leave with a blank", "enable_envvars_config=true \n", TS_NETTY_CLIENT_THREADS="4"),
    case("leave from the environment is none", "", TS_ENABLE_ENVVARS_CONFIG="true", TS_NETTY_CLIENT_THREADS="4"),
    case("leave by substitution", "enable_envvars_config=$$LEAVE$$\n", LEAVE="true", TS_NETTY_CLIENT_THREADS="4"),
    case("TS_ALLOWED_URLS needs more", ENV, TS_ALLOWED_URLS="http://x/.*"),
    case("TS_ALLOWED_URLS with leave", f"{ENV}use_env_allowed_urls=TRUE\n", TS_ALLOWED_URLS="http://x/.*,y,"),
    case("an empty TS_*", f"{ENV}blacklist_env_vars=A\n", TS_BLACKLIST_ENV_VARS=""),
    case("TS_* is not substituted", ENV, TS_BLACKLIST_ENV_VARS="$$HOME$$"),
    case("keys without a variable", f"{ENV}models={{}}\n", TS_MODELS="[]", TS_VERSION="1", TS_SYSTEM_METRICS_CMD="x"),
    case("$$VAR$$", "blacklist_env_vars=$$ONE$$-$$TWO$$\n", ONE="1", TWO="2"),
    case("$$X$$ of one character", "blacklist_env_vars=$$X$$\n", X="1"),
    case("$$VAR$$ that is not set", "blacklist_env_vars=$$ABSENT$$\n"),
    case("$$VAR$$ not set, in a key of the launcher", "vmargs=-Da=$$ABSENT$$\n"),
    case("$$VAR$$ with a backslash", "blacklist_env_vars=$$RE$$\n", RE="a\\.b"),
    case("$$VAR$$ with a group", "blacklist_env_vars=$$RE$$\n", RE="a$1$0"),
    case("$$VAR$$ with a bad group", "blacklist_env_vars=$$RE$$\n", RE="cost$"),
    case("$$VAR$$ beaten by a flag", "load_models=$$WHAT$$\n", f"{USUAL} --models b.mar", WHAT="a.mar"),
    case("TS_MODEL_SERVER_HOME that is not there", "", TS_MODEL_SERVER_HOME="/nonexistent"),
    case("TS_MODEL_SERVER_HOME", "", files={"home/ts/version.txt": TORCHSERVE}, TS_MODEL_SERVER_HOME="home"),
    case("LOG_LOCATION and METRICS_LOCATION", "", LOG_LOCATION="here", METRICS_LOCATION="there"),
    case("LOG_LOCATION beats vmargs", "vmargs=-DLOG_LOCATION=elsewhere\n", LOG_LOCATION="here"),
    case("TEMP that is not there", "", TEMP="nowhere"),
    # which file
    case(
        "TS_CONFIG_FILE beats the flag",
        "netty_client_threads=1\n",
        files={"mine.properties": "netty_client_threads=2\n"},
        TS_CONFIG_FILE="mine.properties",
    ),
    case("an empty TS_CONFIG_FILE is no configuration", "netty_client_threads=1\n", TS_CONFIG_FILE=""),
    case("a TS_CONFIG_FILE that is not there", "", TS_CONFIG_FILE="nowhere.properties"),
    case(
        "./config.properties unasked",
        "netty_client_threads=1\nmodel_store=other\nvmargs=-Xmx99m\n",
        "--ncs --model-store store",
    ),
    case("nothing at all", None, "--ncs --model-store store"),
    case(
        "a snapshot beats ./config.properties",
        "netty_client_threads=1\n",
        "--model-store store",
        files={SNAPSHOT: "number_of_netty_threads=2\n"},
    ),
    case(
        "the newest snapshot",
        None,
        "--model-store store",
        files={SNAPSHOT: "number_of_netty_threads=2\n", LATER: "number_of_netty_threads=3\n"},
    ),
    case(
        "a snapshot whose month runs over",
        None,
        "--model-store store",
        files={"logs/config/20251500000000000-x": "number_of_netty_threads=2\n", LATER: "number_of_netty_threads=3\n"},
    ),
    case(
        "a lone snapshot of any name",
        None,
        "--model-store store",
        files={"logs/config/x": "number_of_netty_threads=2\n"},
    ),
    case(
        "a snapshot of any name beside another",
        None,
        "--model-store store",
        files={SNAPSHOT: "", "logs/config/x": "number_of_netty_threads=2\n"},
    ),
    case(
        "--ncs leaves snapshots alone",
        None,
        "--ncs --model-store store",
        files={SNAPSHOT: "number_of_netty_threads=2\n"},
    ),
    case("--ts-config leaves snapshots alone", "", files={SNAPSHOT: "number_of_netty_threads=2\n"}),
    case(
        "snapshots in LOG_LOCATION",
        None,
        "--model-store store",
        files={"here/config/20260101000000000": "number_of_netty_threads=2\n", SNAPSHOT: "number_of_netty_threads=9\n"},
        LOG_LOCATION="here",
    ),
    case(
        "flags and variables beat a snapshot",
        None,
        "--model-store store --models a.mar --enable-model-api",
        files={
            SNAPSHOT: f"{ENV}load_models=b.mar\nenable_model_api=false\nmodel_store=other\nnumber_of_netty_threads=2\n"
        },
        TS_NUMBER_OF_NETTY_THREADS="6",
    ),
    case(
        "$$VAR$$ in a snapshot", None, "--model-store store", files={SNAPSHOT: "load_models=$$WHAT$$\n"}, WHAT="a.mar"
    ),
    case(
        "tsConfigFile by JAVA_TOOL_OPTIONS",
        "netty_client_threads=1\n",
        "--ncs --model-store store",
        files={"mine.properties": "netty_client_threads=2\n"},
        JAVA_TOOL_OPTIONS=f"{HASTE} -DtsConfigFile=mine.properties",
    ),
    case("_JAVA_OPTIONS beats vmargs", "vmargs=-DLOG_LOCATION=one\n", _JAVA_OPTIONS="-DLOG_LOCATION=two"),
)


@dataclass(frozen=True)
class Observed:
    """What one start said: its output, whether it dumped a configuration, and the JVM's command line."""

    output: str
    dumped: bool
    command: tuple[str, ...]


class Start:
    """One start of stock TorchServe in a folder, ended as soon as its dump is there."""

    def __init__(self, case: Case, folder: Path, home: str) -> None:
        self.case = case
        self.folder = folder
        # On this PATH there is no nvidia-smi: the machine has no devices.
        kept = {"PATH": str(folder / "tmp"), "HOME": str(folder)}
        temporary = {"TEMP": "tmp", "TMPDIR": str(folder / "tmp")}
        usual = {**kept, **temporary, "LANG": "C.UTF-8", "JAVA_HOME": home, "JAVA_TOOL_OPTIONS": HASTE}
        self.environment = {**usual, **case.environment}

    def prepare(self) -> None:
        for name in ("store", "other", "tmp"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "log.xml").write_text(LOGGING)
        for name, content in self.case.files.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    def line(self) -> CommandLine | None:
        """The command line as the launcher takes it; None when it does not."""
        try:
            given = commandline.parse(["--start", "--foreground", *self.case.arguments.split()])
        except SystemExit:
            return None
        return CommandLine(**{one.name: getattr(given, one.name) for one in fields(CommandLine)})

    def expected(self) -> Stock | None:
        """What the model says."""
        line = self.line()
        return None if line is None else model(line, self.environment, RealDisk(self.folder), devices=0)

    def explained(self) -> Mapping[str, Chain]:
        """What `tsguard config explain --all` says that stock would use, by key."""
        line = self.line()
        counted = {one.name for one in fields(Flags)}
        flags = Flags(**{one.name: getattr(line, one.name) for one in fields(line) if one.name in counted})
        made = explain(line, flags, Surroundings(self.environment, self.folder, self.folder), everything=True)
        return {row.key: row.stock for row in made.keys}

    def observe(self) -> Observed:
        command = [str(servers.SCRIPTS / "torchserve"), "--start", "--foreground", *self.case.arguments.split()]
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            output = self._output(process)
            return Observed(output, LAST_LINE in output, self._jvm(process))
        finally:
            self._end(process)

    def _output(self, process: subprocess.Popen[bytes]) -> str:
        """What is said until the last line of the dump, or until the end."""
        said, deadline = b"", time.monotonic() + PATIENCE
        while not re.search(rb"\n" + LAST_LINE.encode() + rb"\w+\n", said):
            if not select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise AssertionError(f"{self.case.name}: no dump and no end:\n{said.decode(errors='replace')}")
            more = os.read(process.stdout.fileno(), 65536)
            if not more:
                break
            said += more
        return said.decode("utf-8", "replace")

    def _jvm(self, process: subprocess.Popen[bytes]) -> tuple[str, ...]:
        try:
            children = psutil.Process(process.pid).children()
            return tuple(children[0].cmdline()) if children else ()
        except psutil.Error:
            return ()

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
        process.wait(10)


@pytest.fixture(scope="module")
def results() -> dict[str, tuple[Path, Stock | None, Observed]]:
    """Every case, modelled and observed; two at a time."""
    home = servers.java_home()
    with servers.folder("tsg-p-") as folder:
        starts = [Start(case, folder / str(number), home) for number, case in enumerate(CASES)]

        def run(start: Start) -> tuple[str, tuple[Path, Stock | None, Observed]]:
            start.prepare()
            expected = start.expected()  # before the start: it leaves folders behind
            return start.case.name, (start.folder, expected, start.observe())

        with ThreadPoolExecutor(2) as pool:
            yield dict(pool.map(run, starts))


PORTS = {"inference_address": (80, 443), "management_address": (8081, 8444), "metrics_address": (8082, 8445)}


class Dump:
    """The lines of ConfigManager.dumpConfigurations that follow from what the model says."""

    def __init__(self, stock: Stock, folder: Path) -> None:
        self.stock = stock
        self.folder = folder

    def step(self, key: str) -> Step:
        return next(step for step in reversed(self.stock.chain(key).steps) if step.counts)

    def raw(self, key: str, absent: str = "N/A") -> str:
        """The value, or the one of the table of keys, or `absent` where the table has none."""
        value = self.step(key).value
        return absent if value is None else value

    def number(self, key: str) -> int:
        step = self.step(key)
        return 0 if step.origin is Origin.DEFAULT else int(step.value)

    def path(self, key: str) -> str:
        value = self.step(key).value
        return "N/A" if value is None else os.path.realpath(self.folder / value)

    def truth(self, key: str) -> str:
        return "true" if self.raw(key).lower() == "true" else "false"

    def address(self, key: str) -> str:
        """Connector.toString."""
        text = self.raw(key)
        if text.lower().startswith("unix:"):
            return text
        scheme, host, port = re.fullmatch(r"(https?)://([^:^/]+)(?::([0-9]+))?", text, re.IGNORECASE).groups()
        secure = scheme.lower() == "https"
        return f"{scheme.lower()}://{host}:{port or PORTS[key][secure]}"

    def home(self) -> str:
        told = self.raw("model_server_home")
        return str(find_torchserve(installed()).home) if told == HOME else os.path.realpath(self.folder / told)

    def workers(self) -> int:
        told = self.number("default_workers_per_model") or self.number("number_of_gpu")
        return 1 if self.truth("debug") == "true" else told or 3

    def mode(self) -> str:
        mode = re.sub(r"\s", "", self.raw("metrics_mode")).upper()
        return mode if mode in {"LOG", "PROMETHEUS", "LEGACY"} else "LOG"

    def lines(self) -> dict[str, str]:
        flag = self.step("cpp_log_config").origin is Origin.FLAG
        version = self.step("version")
        return {
            "Torchserve version": TORCHSERVE if version.origin is Origin.DEFAULT else version.value,
            "TS Home": self.home(),
            "Current directory": str(self.folder),
            "Temp directory": self.stock.launched.system["java.io.tmpdir"],
            "Number of GPUs": str(self.number("number_of_gpu")),
            "Number of CPUs": "3",
            "Config file": self.raw("tsConfigFile") if self.stock.source is not None else "N/A",
            "Inference address": self.address("inference_address"),
            "Management address": self.address("management_address"),
            "Metrics address": self.address("metrics_address"),
            "Model Store": self.path("model_store"),
            "Initial Models": self.raw("load_models"),
            "Log dir": os.path.realpath(self.folder / self.stock.log_location),
            "Metrics dir": os.path.realpath(self.folder / self.stock.metrics_location),
            "Netty threads": str(self.number("number_of_netty_threads")),
            "Netty client threads": str(self.number("netty_client_threads")),
            "Default workers per model": str(self.workers()),
            "Blacklist Regex": "N/A"
            if not self.stock.chain("blacklist_env_vars").told
            else self.raw("blacklist_env_vars"),
            "Maximum Response Size": self.raw("max_response_size"),
            "Maximum Request Size": self.raw("max_request_size"),
            "Limit Maximum Image Pixels": self.raw("limit_max_image_pixels"),
            "Prefer direct buffer": self.raw("prefer_direct_buffer"),
            "Allowed Urls": f"[{', '.join(self.raw('allowed_urls').rstrip(',').split(','))}]",
            "Custom python dependency for model allowed": self.raw("install_py_dep_per_model"),
            "Enable metrics API": self.raw("enable_metrics_api"),
            "Metrics mode": self.mode(),
            "Disable system metrics": self.truth("disable_system_metrics"),
            "Workflow Store": self.path("workflow_store"),
            "CPP log config": self.path("cpp_log_config") if flag else self.raw("cpp_log_config"),
            "Model config": "N/A" if not self.stock.chain("models").told else self.raw("models"),
            "System metrics command": self.raw("system_metrics_cmd") or "default",
            "Model API enabled": self.truth("enable_model_api"),
        }


def dumped(output: str) -> dict[str, str]:
    """The lines of the dump, by their labels."""
    return dict(re.findall(r"^([A-Z][A-Za-z ]+): (.*)$", output.partition("\nTorchserve version")[2], re.MULTILINE)) | {
        "Torchserve version": re.findall(r"^Torchserve version: (.*)$", output, re.MULTILINE)[0]
    }


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_the_model_says_what_stock_says(results, name):
    folder, expected, observed = results[name]
    if expected is None or expected.refusals:
        assert not observed.dumped, (expected, observed.output)
        return
    assert observed.dumped, observed.output
    seen = dumped(observed.output)
    assert {label: seen.get(label) for label in Dump(expected, folder).lines()} == Dump(expected, folder).lines()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_explained_is_what_the_model_says(case, place):
    start = Start(case, place / "own", servers.java_home())
    start.prepare()
    expected = start.expected()
    if expected is None:  # nor does the guard take such a command line
        assert case.name in {"an unknown flag", "an ambiguous flag"}
        return
    if start.line().ts_config is not None and not (start.folder / start.line().ts_config).is_file():
        with pytest.raises(ConfigError):
            start.explained()
        return
    counted = {key: chain for key, chain in start.explained().items() if key != "number_of_gpu"}
    assert counted == {key: expected.chain(key) for key in counted}
    assert {"job_queue_size", "vmargs", "model_store", "load_models"} <= counted.keys()


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_the_model_says_what_the_jvm_is_started_with(results, name):
    _, expected, observed = results[name]
    if not observed.dumped:
        assert expected is None or expected.refusals
        return
    launched = expected.launched
    words = observed.command
    first = next(n for n, word in enumerate(words) if word.startswith("-Djava.io.tmpdir=")) + 1
    class_path = words.index("-cp", first)
    assert words[first:class_path] == launched.options
    assert tuple(words[class_path + 1].split(":")[2:]) == launched.plugins
    assert words[words.index("-s") + 1] == launched.store
    assert ("-f" in words) == (launched.config is not None)


def test_there_are_enough_cases_and_most_of_them_start(results):
    assert len(CASES) >= 60
    assert sum(observed.dumped for _, _, observed in results.values()) >= 60
