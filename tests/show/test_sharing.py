"""Runs in a folder as they would be shared, and through a little Hub on the loopback."""
import base64
import hashlib
import json
import re
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from huggingface_hub import constants

from migvis.cli import main
from migvis.model import MIGVis
from migvis.show.sharing import _plain, export_run
from migvis.simulate.it import simulate_hvm
from migvis.support.presets import EditSettings
from tests.made import SMALL

FILES = {"run.json", "report.json", "vae.safetensors", "critics.safetensors", "denoiser.safetensors"}
QUICK = EditSettings(steps=6)


class Hub(BaseHTTPRequestHandler):
    "What huggingface_hub asks of the Hub: make, look, upload, download. Files lie in `server.repos`."
    protocol_version = "HTTP/1.1"

    def log_message(self, *args): pass

    def answer(self, body=b"", status=200, **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Length": len(body), "Content-Type": "application/json"} | headers
        self.send_response(status)
        for name, value in headers.items(): self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD": self.wfile.write(body)

    def refuse(self, status, code): self.answer({"error": code}, status, X_Error_Code=code)

    def handle_request(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, repos = self.path.partition("?")[0], self.server.repos
        if path == "/api/validate-yaml": return self.answer({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            private = asked.get("visibility") == "private" or asked.get("private", False)
            if name in repos: return self.answer({"error": "exists", "url": f"{self.server.url}/{name}"}, 409)
            if not self.may_write(): return self.refuse(401, "Unauthorized")
            repos[name] = {"private": private, "branches": {"main": {}}}
            return self.answer({"url": f"{self.server.url}/{name}"})
        known = re.fullmatch(r"(?:/api/models)?/(\w+/[\w-]+)(?:/(\w+)/(\w+))?(?:/(.+))?", path)
        repo = known and repos.get(known[1])
        if not repo or repo["private"] and not self.may_write(): return self.refuse(401, "RepoNotFound")
        self.serve(known[1], repo, known[2], known[3] or "main", known[4], body)

    do_GET = do_POST = do_HEAD = handle_request

    def may_write(self): return self.headers.get("Authorization") == "Bearer secret"

    def serve(self, name, repo, verb, revision, file, body):
        if verb == "branch":
            repo["branches"].setdefault(revision, dict(repo["branches"]["main"]))
            return self.answer(b"", 201)
        every = repo["branches"] | {commit_of(files): files for files in repo["branches"].values()}
        files = every.get(revision)
        if files is None: return self.refuse(404, "RevisionNotFound")
        sha = commit_of(files)
        if verb == "preupload":
            asked = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                     for f in json.loads(body)["files"]]
            self.answer({"files": asked})
        elif verb == "commit":
            for line in map(json.loads, body.splitlines()):
                what = line["value"]
                if line["key"] == "file": files[what["path"]] = base64.b64decode(what["content"])
                if line["key"] == "deletedFile": del files[what["path"]]
            url = f"{self.server.url}/{name}/commit/{commit_of(files)}"
            self.answer({"success": True, "commitUrl": url, "commitOid": commit_of(files)})
        elif verb == "tree":
            self.answer([{"type": "file", "path": p, "oid": p, "size": len(c)} for p, c in files.items()])
        elif verb == "resolve" and file in files:
            self.answer(files[file], ETag=f'"{hash(files[file])}"', X_Repo_Commit=sha)
        elif verb in (None, "revision"):
            siblings = [{"rfilename": p} for p in files]
            self.answer({"id": name, "private": repo["private"], "sha": sha, "siblings": siblings})
        else: self.refuse(404, "EntryNotFound")


def commit_of(files):
    "A name for what a branch holds."
    parts = [hashlib.sha1(path.encode() + content).hexdigest() for path, content in sorted(files.items())]
    return hashlib.sha1("".join(parts).encode()).hexdigest()


@pytest.fixture
def hub(monkeypatch, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.url, server.repos = f"http://127.0.0.1:{server.server_port}", {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE",
                        server.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"): monkeypatch.delenv(name, raising=False)
    yield server
    server.shutdown()


@pytest.fixture(scope="module")
def recording(): return simulate_hvm(n_images=80, size=32, subject="M1", seed=3, progress=False)


@pytest.fixture(scope="module")
def model(recording):
    with pytest.warns(UserWarning): # groups that carry nothing, after seconds of training
        return MIGVis(SMALL, device="cpu").fit(recording, progress=False)


@pytest.fixture(autouse=True)
def in_seconds(request, monkeypatch, model):
    "The report that was made once, and a picture that is none, unless a test is about them."
    report = _reports.setdefault(id(model), MIGVis.report(model) if id(model) not in _reports else None)
    if "slowly" in request.fixturenames: return
    monkeypatch.setattr(MIGVis, "report", lambda self: self.require_fitted() or report)
    monkeypatch.setattr("migvis.show.sharing._draw_card", lambda model, path: path.write_bytes(b"a picture"))


_reports = {}


@pytest.fixture
def slowly(): pass


def edited(model): return model.edit([0, 1], [2, 3], gammas=(0., .3), settings=QUICK, progress=False).images


# --- a folder --------------------------------------------------------------------------------------

def test_with_its_recording_all_is_there(model, tmp_path, slowly):
    folder = export_run(model, tmp_path / "run", recording=True)
    names = {path.name for path in folder.iterdir()}
    assert names == FILES | {"recording.npz", "README.md", "guidance.png"}
    loaded = MIGVis.load(folder, "cpu")
    np.testing.assert_array_equal(edited(loaded), edited(model))
    assert loaded.report() == model.report()
    assert (folder / "guidance.png").read_bytes().startswith(b"\x89PNG")


def test_without_it_neither_images_nor_responses_leave(model, recording, tmp_path):
    folder = export_run(model, tmp_path / "run", recording=False)
    names = {path.name for path in folder.iterdir()}
    assert names == FILES | {"split.npz", "README.md", "guidance.png"} # the picture is of a simulation
    content = b"".join(path.read_bytes() for path in folder.iterdir())
    for row in recording.responses[:5]: assert row.tobytes() not in content
    loaded = MIGVis.load(folder, "cpu")
    np.testing.assert_array_equal(loaded.transform(recording.responses), model.transform(recording.responses))
    assert loaded.score(recording.responses) == model.score(recording.responses)
    assert "without its recording" in repr(loaded)
    for call in (lambda: loaded.edit(0, 1), loaded.latents, loaded.report, loaded.score,
                 lambda: loaded.save(tmp_path / "again")):
        with pytest.raises(ValueError, match="recording="): call()


def test_who_has_the_recording_gets_the_same_edits(model, recording, tmp_path):
    folder = export_run(model, tmp_path / "run", recording=False)
    loaded = MIGVis.load(folder, "cpu", recording=recording)
    np.testing.assert_array_equal(edited(loaded), edited(model))
    other = simulate_hvm(n_images=80, size=32, subject="M1", seed=4, progress=False)
    with pytest.raises(ValueError, match="is not the recording that this run was fitted to"):
        MIGVis.load(folder, "cpu", recording=other)


def test_images_of_a_lab_are_not_in_the_card(model, tmp_path, monkeypatch):
    monkeypatch.setattr(model, "recording", replace(model.recording, simulated=False))
    folder = export_run(model, tmp_path / "run", recording=False)
    assert not (folder / "guidance.png").exists()
    assert "guidance.png" not in (folder / "README.md").read_text()


@pytest.mark.parametrize("choice", [None, "no", 0])
def test_the_choice_has_to_be_made(model, tmp_path, choice):
    with pytest.raises(ValueError, match="80 images, the responses of .* units"):
        export_run(model, tmp_path / "run", recording=choice)
    with pytest.raises(ValueError, match="recording=True publishes"): model.push_to_hub("me/run", choice)
    assert not (tmp_path / "run").exists()


def test_nothing_else_is_shared(model, tmp_path):
    (tmp_path / "notes.txt").write_text("ours")
    with pytest.raises(ValueError, match="not empty"): export_run(model, tmp_path, recording=True)
    with pytest.raises(ValueError, match="not fitted"): export_run(MIGVis("tiny"), tmp_path / "x", recording=True)


@pytest.mark.parametrize("with_recording", [True, False])
@pytest.mark.parametrize("name", sorted(FILES - {"report.json"}))
def test_a_changed_byte_is_refused(model, shared, name, with_recording):
    folder = shared[with_recording]
    path, content = folder / name, (folder / name).read_bytes()
    try:
        path.write_bytes(content[:-20] + bytes([content[-20] ^ 1]) + content[-19:])
        with pytest.raises(ValueError, match="damaged|not the file"): MIGVis.load(folder, "cpu")
    finally: path.write_bytes(content)


@pytest.fixture
def shared(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    return {share: export_run(model, folder / str(share), recording=share) for share in (True, False)}


def test_the_card_says_what_it_is(model, shared):
    card = (shared[False] / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: migvis\n")
    n, units = len(model.recording), model.recording.responses.shape[1]
    for text in ("simulation", f"{n}, 32 x 32 pixels", f"| units | {units} |", "tiny", "not shared", "Not measured",
                 'MIGVis.load("hf://OWNER/NAME", recording=recording)', "95 % interval"): assert text in card
    for name, bound in model.report()["mutual_information_nats"].items():
        assert f"{bound['lower_bound']:.2f}" in card and _plain(name) in card


class Measured:
    def matrix(self, quantity):
        import pandas as pd
        return pd.DataFrame([[.5, .25]], ["Group 1"], ["pose", "category"])


def test_the_card_has_the_selectivity_that_was_measured(model, tmp_path):
    card = export_run(model, tmp_path / "run", recording=True, selectivity=Measured()) / "README.md"
    assert "| Group 1 | 0.5 | 0.25 |" in card.read_text()


def test_names_cannot_write_into_the_card():
    assert _plain("a|b\n<script>[x](y)") == r"a\|b &lt;script&gt;\[x\](y)"


# --- the Hub ---------------------------------------------------------------------------------------

def test_there_and_back(model, recording, hub):
    address = model.push_to_hub("me/run", recording=True, token="secret")
    assert address.startswith(f"{hub.url}/me/run/commit/") and hub.repos["me/run"]["private"]
    assert set(hub.repos["me/run"]["branches"]["main"]) == FILES | {"recording.npz", "README.md", "guidance.png"}
    loaded = MIGVis.load("hf://me/run", "cpu", token="secret")
    np.testing.assert_array_equal(edited(loaded), edited(model))


def test_a_later_push_takes_the_recording_away(model, recording, hub):
    model.push_to_hub("me/run", recording=True, token="secret", private=False)
    model.push_to_hub("me/run", recording=False, token="secret", private=False)
    assert "recording.npz" not in hub.repos["me/run"]["branches"]["main"]
    assert MIGVis.load("hf://me/run", "cpu").recording is None # a public one, without a token
    assert MIGVis.load("hf://me/run", "cpu", recording=recording).recording is not None


def test_a_byte_changed_on_the_way_is_refused(model, hub):
    model.push_to_hub("me/run", recording=True, token="secret", private=False)
    files = hub.repos["me/run"]["branches"]["main"]
    content = files["critics.safetensors"]
    files["critics.safetensors"] = content[:-20] + bytes([content[-20] ^ 1]) + content[-19:]
    with pytest.raises(ValueError, match="damaged|not the file"): MIGVis.load("hf://me/run", "cpu")


def test_revisions_are_kept_apart(model, hub):
    model.push_to_hub("me/run", recording=False, token="secret", private=False)
    model.push_to_hub("me/run", recording=True, token="secret", private=False, revision="full")
    assert MIGVis.load("hf://me/run", "cpu").recording is None
    assert MIGVis.load("hf://me/run", "cpu", revision="full").recording is not None
    with pytest.raises(FileNotFoundError, match="revision"): MIGVis.load("hf://me/run", "cpu", revision="none")


def test_private_is_never_sent_to_a_public_repository(model, hub):
    hub.repos["me/run"] = {"private": False, "branches": {"main": {}}}
    with pytest.raises(ValueError, match="is public"): model.push_to_hub("me/run", recording=True, token="secret")
    assert hub.repos["me/run"]["branches"]["main"] == {}


@pytest.mark.parametrize("call, error, message", [
    (lambda model: MIGVis.load("hf://me/none", "cpu"), FileNotFoundError, "the Hub has no me/none"),
    (lambda model: MIGVis.load("hf://a/b/c", "cpu"), ValueError, "owner/name"),
    (lambda model: MIGVis.load("run", "cpu", revision="main"), ValueError, "hf://"),
    (lambda model: model.push_to_hub("me/new", recording=True, token="wrong"), ConnectionError, "token"),
    (lambda model: model.push_to_hub("a/b/c", recording=True, token="secret"), ValueError, "owner/name")])
def test_what_the_hub_refuses_has_a_remedy(model, hub, call, error, message):
    with pytest.raises(error, match=message): call(model)
    assert not hub.repos


def test_the_command_pushes(model, hub, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "secret")
    folder = str(model.save(tmp_path / "run"))
    assert main(["push", "--run", folder, "--repo", "me/run", "--recording", "no", "--public"]) == 0
    assert f"{hub.url}/me/run/commit/" in capsys.readouterr().out
    repo = hub.repos["me/run"]
    assert not repo["private"] and "recording.npz" not in repo["branches"]["main"]
    with pytest.raises(SystemExit): main(["push", "--run", folder, "--repo", "me/run"])


def test_no_network(model, hub):
    hub.shutdown(), hub.server_close()
    with pytest.raises(ConnectionError): MIGVis.load("hf://me/run", "cpu")
