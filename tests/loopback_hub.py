"""A ModelScope hub on 127.0.0.1 that serves folders as model repositories; standard library only.

It answers what modelscope 1.20 and 1.40 ask when they download a model, honours Range, and can
misbehave as networks do:

    with LoopbackHub({"damo/name": folder}) as hub:
        subprocess.run(..., env={**os.environ, **hub.environment(cache_dir)})

Or `python loopback_hub.py PORT OWNER/NAME=FOLDER ...` for a look by hand.
"""

import hashlib
import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

# Version 1.20 always asks https://MODELSCOPE_DOMAIN; a client process must run this first.
CLIENT_PREAMBLE = """
try:
    import modelscope.hub.utils.utils as _utils
    if hasattr(_utils, "MODELSCOPE_URL_SCHEME"):
        _utils.MODELSCOPE_URL_SCHEME = "http://"
except ImportError:
    pass
"""
_ROUTE = re.compile(r"/(openapi/v1|api/v1)/models/([^/]+/[^/]+?)(?:/(repo/files|repo|revisions))?/?")


class LoopbackHub:
    """repos: {"owner/name": folder}; files: {"/path": bytes} that are served besides, by their path.

    Faults, to be set at any time: `cut_after`, bytes after which the first answer for each file longer
    than that breaks off; `wrong_sha256`, promise a checksum that no file has.
    """

    def __init__(self, repos: dict, files: dict | None = None, port: int = 0):
        self.repos = {name: Path(folder) for name, folder in repos.items()}
        self.files = dict(files or {})
        self.cut_after = None
        self.wrong_sha256 = False
        self.requests = []  # (path, Range header or None) of each request, in order
        self._cut = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception):
        self._server.shutdown()
        self._server.server_close()

    def environment(self, cache_dir) -> dict:
        """The settings that send a ModelScope process here, with its cache in `cache_dir`."""
        return {
            "MODELSCOPE_ENDPOINT": self.url,  # 1.40
            "MODELSCOPE_DOMAIN": self.url.removeprefix("http://"),  # 1.20
            "MODELSCOPE_CACHE": str(cache_dir),
        }

    def api(self, version: str, name: str, what: str | None, query: dict):
        """The answer to a request about a repository: an object for JSON, bytes for a file, or None."""
        owner, short = name.split("/")
        if version == "openapi/v1":
            return {"success": True, "data": {"id": name, "owner": owner, "name": short, "visibility": 5}}
        if what is None:
            return _success({"Path": owner, "Name": short, "Owner": owner, "Visibility": 5})
        if what == "revisions":
            branch = {"Revision": "master", "CreatedAt": 1700000000}
            return _success({"RevisionMap": {"Branches": [branch], "Tags": []}})
        if query.get("Revision", "master") not in ("master", "f" * 40):  # there is but one revision
            return None
        root = self.repos[name]
        if what == "repo/files":
            paths = sorted(path for path in root.rglob("*") if path.is_file())
            return _success({"Files": [self._described(path, root) for path in paths]})
        path = (root / query.get("FilePath", "")).resolve()
        if path.is_file() and path.is_relative_to(root.resolve()):
            return path.read_bytes()
        return None

    def _described(self, path: Path, root: Path) -> dict:
        data = path.read_bytes()
        return {
            "Path": path.relative_to(root).as_posix(),
            "Name": path.name,
            "Type": "blob",
            "Size": len(data),
            "Sha256": "0" * 64 if self.wrong_sha256 else hashlib.sha256(data).hexdigest(),
            "Revision": "f" * 40,
            "CommittedDate": int(path.stat().st_mtime),
        }

    def cuts(self, path: str, size: int) -> bool:
        """Whether this answer is to break off; each path is cut once."""
        if self.cut_after is None or size <= self.cut_after or path in self._cut:
            return False
        self._cut.add(path)
        return True


def _success(data: dict) -> dict:
    return {"Code": 200, "Success": True, "Message": "success", "RequestId": "0", "Data": data}


def _handler(hub: LoopbackHub) -> type:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def do_GET(self):
            hub.requests.append((self.path, self.headers.get("Range")))
            url = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            match = _ROUTE.fullmatch(unquote(url.path))
            if match and match[2] in hub.repos:
                answer = hub.api(*match.groups(), query)
            else:
                answer = hub.files.get(url.path)
            if isinstance(answer, bytes):
                self._send_file(answer)
            elif answer is None:
                self._send_json(404, {"Code": 10010205001, "Success": False, "Message": "not found"})
            else:
                self._send_json(200, answer)

        do_HEAD = do_GET

        def _send_json(self, status: int, answer: dict):
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self._finish(body)

        def _send_file(self, data: bytes):
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            first, last = 0, len(data) - 1
            if wanted:
                first, last = int(wanted[1]), int(wanted[2] or last)
            part = data[first : last + 1]
            self.send_response(206 if wanted else 200)
            self.send_header("Content-Type", "application/octet-stream")
            if wanted:
                self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(data)}")
            self._finish(part, cut=hub.cut_after if hub.cuts(self.path, len(part)) else None)

        def _finish(self, body: bytes, cut: int | None = None):
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body[:cut])
            if cut is not None:
                self.close_connection = True

    return Handler


if __name__ == "__main__":
    with LoopbackHub(dict(pair.split("=", 1) for pair in sys.argv[2:]), port=int(sys.argv[1])) as served:
        print(served.url, flush=True)
        threading.Event().wait()
