"""A real nginx in front of the app, from the very block of docs/deploying.md."""

import re
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from tests.conftest import missing

PAGE = Path(__file__).parents[2] / "docs" / "deploying.md"
MAIN = """
{user}
daemon off;
pid {folder}/pid;
error_log {folder}/errors;
worker_processes 1;
events {{ worker_connections 512; }}
http {{
    access_log {folder}/requests;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {site}
}}
"""


def block(language, holding=""):
    """The block of the page in a language, the one that holds some text."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return next(text for kind, text in found if kind == language and holding in text)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Nginx:
    """TLS at `url`, passed on to processes at `ports`. edit: changes to the page's block, by text."""

    def __init__(self, ports, edit=()):
        if not shutil.which("nginx") or not shutil.which("openssl"):
            missing("nginx")
        self.folder, self.port = tempfile.mkdtemp(prefix="nginx-"), free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        site = self._site(ports)
        for old, new in edit:
            assert old in site, old
            site = site.replace(old, new)
        self._certificate()
        conf = Path(self.folder) / "nginx.conf"
        user = "user root;" if Path("/root").owner() == Path(self.folder).owner() else ""
        conf.write_text(MAIN.format(user=user, folder=self.folder, site=site))
        self.process = subprocess.Popen(["nginx", "-c", conf], stderr=subprocess.PIPE, text=True)
        self._wait()

    def _site(self, ports):
        site = block("nginx")
        servers = re.findall(r"^    server 127.*$", site, re.MULTILINE)
        for line in servers[len(ports) :]:
            site = site.replace(line + "\n", "")
        for line, port in zip(servers, ports, strict=False):
            site = site.replace(line, re.sub(r":\d+", f":{port}", line))
        return site.replace("listen 443", f"listen 127.0.0.1:{self.port}").replace(
            "/etc/ssl/labels", self.folder
        )

    def _certificate(self):
        command = (
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
        )
        files = ["-keyout", f"{self.folder}/privkey.pem", "-out", f"{self.folder}/fullchain.pem"]
        subprocess.run(["openssl", *command.split(), *files], check=True, capture_output=True)

    def _wait(self):
        deadline = time.time() + 60
        while time.time() < deadline:
            assert self.process.poll() is None, self.process.stderr.read()
            try:
                return socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
            except OSError:
                time.sleep(0.05)
        raise AssertionError("nginx did not start")

    def stop(self):
        self.process.terminate()
        self.process.wait(30)
        shutil.rmtree(self.folder, ignore_errors=True)
