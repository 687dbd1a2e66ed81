"""A hub on this machine: what uploads and downloads of huggingface_hub ask, answered from memory."""

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_a-secret-that-nobody-may-read"
USER, ORGANISATION = "somebody", "their-lab"


@dataclass
class Stored:
    """One repository."""

    private: bool = False
    files: dict[str, bytes] = field(default_factory=lambda: {".gitattributes": b"*.safetensors filter=lfs"})
    commits: list[str] = field(default_factory=lambda: ["0" * 40])


class StandInHub:
    """Repositories by name, what was asked, and the statuses with which some paths are answered."""

    def __init__(self):
        self.repositories, self.objects, self.asked, self.failing = {}, {}, [], {}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answer", (_Answer,), {"hub": self}))
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class _Answer(BaseHTTPRequestHandler):
    hub: StandInHub

    def log_message(self, *_):
        pass

    def say(self, status, content=b"", **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def handle_one(self):
        path = unquote(urlsplit(self.path).path)
        body = self.body()
        self.hub.asked.append((self.command, path))
        for part, status in self.hub.failing.items():
            if part in path:
                return self.say(status, {"error": "as asked"})
        if path.startswith("/objects/"):
            assert hashlib.sha256(body).hexdigest() == path.rpartition("/")[2]
            self.hub.objects[path.rpartition("/")[2]] = body
            return self.say(200)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.say(401, {"error": "Invalid credentials"})
        if path == "/api/whoami-v2":
            return self.say(200, {"type": "user", "name": USER, "orgs": [{"name": ORGANISATION}]})
        if path == "/api/validate-yaml":
            return self.say(200, {"errors": [], "warnings": []})
        if path == "/verify":
            return self.say(200)
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if path.endswith(".git/info/lfs/objects/batch"):
            return self.batch(json.loads(body))
        if path.startswith("/api/models/"):
            return self.of_a_model(path.removeprefix("/api/models/").split("/"), body)
        name, _, rest = path.strip("/").partition("/resolve/")
        return self.download(name, rest.partition("/")[2])

    do_GET = do_POST = do_PUT = do_HEAD = handle_one

    def create(self, asked):
        name = f"{asked['organization'] or USER}/{asked['name']}"
        if asked["organization"] not in (None, USER, ORGANISATION):
            return self.say(
                403, {"error": "You don't have the rights to create a model under this namespace"}
            )
        if name in self.hub.repositories:
            return self.say(409, {"error": "You already created this model repo"})
        self.hub.repositories[name] = Stored(private=asked.get("visibility") == "private")
        return self.say(200, {"url": f"{self.hub.endpoint}/{name}", "name": name, "id": "1"})

    def batch(self, asked):
        assert asked["operation"] == "upload" and asked["hash_algo"] == "sha256"
        objects = [
            {
                **each,
                "authenticated": True,
                "actions": {
                    "upload": {"href": f"{self.hub.endpoint}/objects/{each['oid']}", "header": {}},
                    "verify": {"href": f"{self.hub.endpoint}/verify", "header": {}},
                },
            }
            for each in asked["objects"]
        ]
        return self.say(200, {"transfer": "basic", "objects": objects})

    def of_a_model(self, parts, body):
        stored = self.hub.repositories.get("/".join(parts[:2]))
        if stored is None:
            return self.say(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        what = parts[2] if len(parts) > 2 else "info"
        if what in ("info", "revision"):
            files = [{"rfilename": name} for name in stored.files]
            return self.say(
                200,
                {
                    "id": "/".join(parts[:2]),
                    "sha": stored.commits[-1],
                    "siblings": files,
                    "private": stored.private,
                },
            )
        if what == "tree":
            return self.say(
                200,
                [
                    {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
                    for name, content in stored.files.items()
                ],
            )
        if what == "preupload":
            files = json.loads(body)["files"]
            return self.say(
                200,
                {
                    "files": [
                        {
                            "path": each["path"],
                            "uploadMode": "lfs"
                            if each["path"].endswith((".safetensors", ".shear"))
                            else "regular",
                            "shouldIgnore": False,
                            "oid": None,
                        }
                        for each in files
                    ]
                },
            )
        assert what == "commit" and parts[3] == "main"
        return self.commit(stored, "/".join(parts[:2]), [json.loads(line) for line in body.splitlines()])

    def commit(self, stored, name, lines):
        (header, *operations) = ((line["key"], line["value"]) for line in lines)
        if header[1].get("parentCommit", stored.commits[-1]) != stored.commits[-1]:
            return self.say(412, {"error": "A commit has happened since"})
        for kind, value in operations:
            if kind == "deletedFile":
                del stored.files[value["path"]]
            elif kind == "lfsFile":
                stored.files[value["path"]] = self.hub.objects[value["oid"]]
            else:
                assert kind == "file" and value["encoding"] == "base64"
                stored.files[value["path"]] = base64.b64decode(value["content"])
        stored.commits.append(f"{len(stored.commits):040x}")
        url = f"{self.hub.endpoint}/{name}/commit/{stored.commits[-1]}"
        return self.say(200, {"success": True, "commitUrl": url, "commitOid": stored.commits[-1]})

    def download(self, name, file):
        stored = self.hub.repositories.get(name)
        if stored is None or file not in stored.files:
            return self.say(404, X_Error_Code="EntryNotFound" if stored else "RepoNotFound")
        content = stored.files[file]
        digest = hashlib.sha256(content).hexdigest()
        return self.say(200, content, ETag=f'"{digest}"', X_Repo_Commit=stored.commits[-1])
