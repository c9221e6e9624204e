"""The demo: a bare TorchServe, then a guarded one, on models built on the spot. Exits 1 if anything is not as told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import servers  # noqa: E402 - it lies with the tests

CHANGES = (
    ("POST", "/models?url=noop.mar&model_name=intruder"),
    ("PUT", "/models/noop?min_worker=0"),
    ("DELETE", "/models/intruder"),
    ("PUT", "/%6dodels/noop?min_worker=1"),
    ("POST", "/workflows?url=http://127.0.0.1:9/evil.war"),
)
failures = []


def show(what: str, seen: object, *, expected: bool) -> None:
    """Print one step; remember it when it is not as expected."""
    print(f"  {'ok  ' if expected else 'FAIL'}  {what:58} {seen}")
    if not expected:
        failures.append(what)


def attempt(server: servers.Server, *, guarded: bool) -> None:
    """Ask for a prediction and for every change."""
    answer = server.ask("POST", "/predictions/noop", b"hello")
    show("POST /predictions/noop", f"{answer.status} {answer.body[:40]!r}", expected=answer.status == 200)  # noqa: PLR2004
    for method, target in CHANGES:
        answer = server.manage(method, target)
        refused = answer.status in {400, 403, 405}
        # The bare server tries to fetch the workflow, and finds nobody there: it did try, which is the hole.
        tried = answer.status < 300 or (target.startswith("/workflows") and b"Failed to download" in answer.body)  # noqa: PLR2004
        show(f"{method} {target}", f"{answer.status} {summary(answer)}", expected=refused if guarded else tried)
    models = [model["modelName"] for model in server.manage("GET", "/models").json["models"]]
    show("GET /models", f"{models}", expected=models == ["noop"])


def summary(answer: servers.Answer) -> str:
    """Return the message of an answer, short."""
    try:
        told = answer.json
    except ValueError:
        return repr(answer.body[:60])
    return str(told.get("message") or told.get("status") or told).replace("\n", " ")[:70]


def changed_byte(archive: Path) -> None:
    """Change one byte in the middle of an archive."""
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 1
    archive.write_bytes(data)


def main() -> int:
    """Run the demo."""
    with servers.folder("tsg-demo-") as folder:
        store = folder / "store"
        print("building a model with torch-model-archiver", flush=True)
        subprocess.run([sys.executable, str(ROOT / "tests/models/build.py"), str(store), "noop"], check=True)
        load = {"load_models": "noop.mar"}

        print(
            "\na bare TorchServe 0.12.0, as its users run it with model control: anyone who reaches the port changes it"
        )
        stock = servers.Stock(folder / "stock", store, load, arguments=("--enable-model-api",))
        with servers.serving(stock, ("noop",)):
            attempt(stock, guarded=False)

        print("\nthe same archive and configuration under `tsguard start`, model-control-mode=none (the default)")
        servers.manifest(store)
        guarded = servers.Guarded(folder / "guarded", store, load)
        with servers.serving(guarded):
            attempt(guarded, guarded=True)
        refusals = [entry for entry in guarded.audit() if entry["event"] == "refusal"]
        show("refusals on record", len(refusals), expected=len(refusals) == len(CHANGES))

        print("\none byte of the archive is changed: the start is refused")
        changed_byte(store / "noop.mar")
        done = guarded.run("start", "--config", str(guarded.config))
        told = next((line for line in done.stderr.splitlines() if "noop.mar" in line), done.stderr)
        show("tsguard start", f"exit code {done.returncode}", expected=done.returncode == 4)  # noqa: PLR2004
        print(f"        {told}")
    print("\nall as it should be" if not failures else f"\nNOT as it should be: {', '.join(failures)}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
