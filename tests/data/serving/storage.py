"""An S3 server on this machine that fails when told to: moto's, behind a layer that looks at each request."""

import threading
import time
from pathlib import Path

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

BUCKET = "shelf"
REFUSED, FORBIDDEN = "503 Service Unavailable", "403 Forbidden"


class Quiet(WSGIRequestHandler):
    def log(self, *args):
        pass


class Storage:
    """S3 at 127.0.0.1; what is asked for is counted, and fails while ``failing`` is positive."""

    def __init__(self):
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=Quiet)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.failing, self.asked, self.flipped = 0, [], 0
        self.faults, self.writes = [], []

    def _answer(self, environ, start_response):
        path, reads = environ["PATH_INFO"], environ["REQUEST_METHOD"] in ("GET", "HEAD")
        with self._lock:
            fault = self.faults.pop(0) if self.faults else ""
            if not reads:
                self.writes.append(path)
            fails = reads and self.failing > 0
            self.failing -= fails
            flips = environ["REQUEST_METHOD"] == "GET" and self.flipped > 0 and not fails
            self.flipped -= flips
            flips = flips or fault == "flip"
            if environ["REQUEST_METHOD"] == "GET":
                self.asked.append(path)
        if fault == "slow":
            time.sleep(0.2)
        if fails or fault in ("500", "403"):
            start_response(FORBIDDEN if fault == "403" else REFUSED, [("Content-Length", "0")])
            return [b""]
        body = self._moto(environ, start_response)
        if fault == "cut":  # of what the head says is there
            content = b"".join(body)
            return [content[: len(content) // 2]]
        if flips:
            content = bytearray(b"".join(body))
            if content:
                content[len(content) // 2] ^= 1
            return [bytes(content)]
        return body

    def start(self):
        self._thread.start()
        self._client = boto3.client("s3", endpoint_url=self.url)
        self._client.create_bucket(Bucket=BUCKET)

    def stop(self):
        self._client.close()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def upload(self, directory, name):
        """Put a directory below ``name``, and give its address."""
        for path in sorted(Path(directory).rglob("*")):
            if path.is_file():
                key = f"{name}/{path.relative_to(directory).as_posix()}"
                self._client.put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())
        return f"s3://{BUCKET}/{name}"

    def download(self, address, directory):
        """Write what is below an address to a directory."""
        name = address.removeprefix(f"s3://{BUCKET}/")
        for one in self._client.list_objects_v2(Bucket=BUCKET, Prefix=f"{name}/").get("Contents", ()):
            path = Path(directory) / one["Key"].removeprefix(f"{name}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._client.get_object(Bucket=BUCKET, Key=one["Key"])["Body"].read())
        return directory

    def fetched(self, suffix=".bin"):
        """How often each object was asked for."""
        counts = {}
        for path in self.asked:
            if path.endswith(suffix):
                counts[path] = counts.get(path, 0) + 1
        return counts
