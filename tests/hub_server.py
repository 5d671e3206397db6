"""A server of the hub's protocol on loopback, for data sets and models in a folder: `with serve(folder) as url`.

Repositories stand at FOLDER/datasets/OWNER/NAME and FOLDER/models/OWNER/NAME. A repository with a file `.private` is
answered as one that needs a log-in.
"""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

SHA = "0123456789abcdef0123456789abcdef01234567"
API = re.compile(r"/api/(datasets|models)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?")
FILE = re.compile(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


def files_of(repository):
    return [path for path in sorted(repository.rglob("*")) if path.is_file() and path.name != ".private"]


def entry_of(repository, path):
    if path.is_dir():
        return {"type": "directory", "path": f"{path.relative_to(repository)}", "size": 0, "oid": "0" * 40}
    data = path.read_bytes()
    return {
        "type": "file",
        "path": f"{path.relative_to(repository)}",
        "size": len(data),
        "oid": hashlib.sha1(data).hexdigest(),
    }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def answer(self, status, body, headers=(), send_body=True):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()
        if send_body and self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, code, status=404):
        self.answer(
            status, json.dumps({"error": code}).encode(), {"X-Error-Code": code, "X-Error-Message": code}
        )

    def found(self, kind, name, revision):
        """The repository's folder, unless the answer is already a refusal."""
        folder = self.server.folder / kind / name
        if not folder.is_dir() or (folder / ".private").exists():
            self.refuse("RepoNotFound", 401)
        elif revision not in (None, "main", "v1", SHA):
            self.refuse("RevisionNotFound")
        else:
            return folder
        return None

    def do_GET(self):
        self.get(send_body=True)

    def do_HEAD(self):
        self.get(send_body=False)

    def do_POST(self):
        size = self.headers.get("Content-Length")
        body = self.rfile.read(int(size)) if size else self.read_chunks()
        if self.writes(body):
            return
        kind, name, _, revision, _ = API.fullmatch(unquote(urlparse(self.path).path)).groups()
        if folder := self.found(kind, name, revision):
            content = self.headers.get("Content-Type", "")
            wanted = (
                json.loads(body)["paths"]
                if "json" in content
                else re.findall(r"paths=([^&]*)", unquote(body.decode()))
            )
            there = [entry_of(folder, folder / path) for path in wanted if path and (folder / path).exists()]
            self.answer(200, json.dumps(there).encode(), {"Content-Type": "application/json"})

    def read_chunks(self):
        """A body sent in chunks, as a commit is."""
        parts = []
        while self.headers.get("Transfer-Encoding") == "chunked" and (n := int(self.rfile.readline(), 16)):
            parts.append(self.rfile.read(n))
            self.rfile.readline()
        return b"".join(parts)

    def do_PUT(self):
        """What a large file's upload action asked for."""
        name = self.path.rsplit("/", 1)[1]
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.uploads[name] = data
        self.answer(200 if hashlib.sha256(data).hexdigest() == name else 400, b"")

    def writes(self, body):
        """Answer what makes, fills and changes a repository of models; whether it was one of these."""
        path = unquote(urlparse(self.path).path)
        steps = {
            r"/api/repos/create": self.create,
            r"/api/validate-yaml": lambda body: self.send_json({"errors": [], "warnings": []}),
            r"/api/models/(.+?/.+?)/preupload/main": self.preupload,
            r"/(.+?/.+?)\.git/info/lfs/objects/batch": self.upload_actions,
            r"/api/models/(.+?/.+?)/commit/main": self.commit,
        }
        for pattern, step in steps.items():
            if matched := re.fullmatch(pattern, path):
                if self.headers.get("Authorization") != "Bearer secret":
                    self.refuse("Unauthorized", 401)
                else:
                    step(body, *matched.groups())
                return True
        return False

    def send_json(self, value):
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def create(self, body):
        asked = json.loads(body)
        name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
        (self.server.folder / "models" / name).mkdir(parents=True, exist_ok=True)
        self.send_json({"url": f"http://{self.headers['Host']}/{name}", "name": name, "id": SHA[:24]})

    def preupload(self, body, name):
        files = [
            {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular", "shouldIgnore": False, "oid": None}
            for f in json.loads(body)["files"]
        ]  # fmt: skip
        self.send_json({"files": files})

    def upload_actions(self, body, name):
        objects = [
            {"oid": one["oid"], "size": one["size"],
             "actions": {"upload": {"href": f"http://{self.headers['Host']}/upload/{one['oid']}"}}}
            for one in json.loads(body)["objects"]
        ]  # fmt: skip
        self.send_json({"transfer": "basic", "objects": objects})

    def commit(self, body, name):
        folder = self.server.folder / "models" / name
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "deletedFile":
                (folder / value["path"]).unlink()
                continue
            if line["key"] == "header":
                self.server.commits.append((name, value["summary"]))
                continue
            whole = (
                self.server.uploads[value["oid"]]
                if line["key"] == "lfsFile"
                else base64.b64decode(value["content"])
            )
            (folder / value["path"]).parent.mkdir(parents=True, exist_ok=True)
            (folder / value["path"]).write_bytes(whole)
        url = f"http://{self.headers['Host']}/{name}/commit/{SHA}"
        self.send_json({"success": True, "commitOid": SHA, "commitUrl": url, "hookOutput": ""})

    def get(self, send_body):
        path = unquote(urlparse(self.path).path)
        if matched := API.fullmatch(path):
            kind, name, what, revision, inside = matched.groups()
            if folder := self.found(kind, name, revision):
                self.answer_api(folder, name, what, inside or "", send_body)
        elif matched := FILE.fullmatch(path):
            kind, name, revision, inside = matched.groups()
            if folder := self.found(kind or "models", name, revision):
                self.answer_file(folder / inside, send_body)
        else:
            self.refuse("NotFound")

    def answer_api(self, folder, name, what, inside, send_body):
        if what == "tree":
            deep = re.search(r"recursive=true", self.path, re.IGNORECASE)
            paths = sorted((folder / inside).glob("**/*" if deep else "*"))
            found = [entry_of(folder, path) for path in paths if path.name != ".private"]
        else:
            siblings = [{"rfilename": f"{path.relative_to(folder)}"} for path in files_of(folder)]
            found = {"id": name, "sha": SHA, "private": False, "gated": False, "disabled": False, "tags": [], "downloads": 0,
                     "likes": 0, "siblings": siblings}  # fmt: skip
        self.answer(200, json.dumps(found).encode(), {"Content-Type": "application/json"}, send_body)

    def answer_file(self, path, send_body):
        if not path.is_file():
            self.refuse("EntryNotFound")
            return
        data = path.read_bytes()
        headers = {
            "ETag": f'"{hashlib.sha1(data).hexdigest()}"',
            "X-Repo-Commit": SHA,
            "Accept-Ranges": "bytes",
        }
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked and send_body:
            start, end = int(asked[1]), int(asked[2] or len(data) - 1)
            headers["Content-Range"] = f"bytes {start}-{min(end, len(data) - 1)}/{len(data)}"
            self.answer(206, data[start : end + 1], headers)
        else:
            self.answer(200, data, headers, send_body)


@contextmanager
def serve(folder):
    """The server's URL, for HF_ENDPOINT, while the block runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.folder, server.uploads, server.commits = folder, {}, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
