# SPDX-License-Identifier: GPL-3.0-only
"""The proxies that are compared, and the backend they share.

Called by l7.py. Each subject listens on two loopback ports, cleartext HTTP/1.1 and TLS (HTTP/1.1 and HTTP/2 by ALPN), in
front of the same backend, with the same number of workers on the same cores, the same certificate, keep-alive on both sides,
no access log, and its other settings as they come. Configuration files are written into the bench's temporary directory.
"""

import os
import shutil
import subprocess

from process import Process, free_port

SMALL = 1024
LARGE = 16 * 1024 * 1024


def certificate(directory):
    """One self-signed P-256 certificate for all: (certificate, key, both in one file)."""
    cert, key, both = (os.path.join(directory, name) for name in ("cert.pem", "key.pem", "both.pem"))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )
    with open(both, "w") as out:
        for part in (cert, key):
            with open(part) as text:
                out.write(text.read())
    return cert, key, both


def nginx_frame(directory, workers, http):
    """An nginx.conf that touches nothing outside `directory`."""
    temp = "\n    ".join(
        f"{kind}_temp_path {directory}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    user = "user root;" if os.geteuid() == 0 else ""
    return f"""
{user}
daemon off;
pid {directory}/nginx.pid;
worker_processes {workers};
worker_rlimit_nofile 16384;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    {temp}
    {http}
}}
"""


class Backend:
    """nginx: 1 KiB from memory on /, 16 MiB from the page cache on /large."""

    def __init__(self, directory, cpus):
        self.port = free_port()
        home = os.path.join(directory, "backend")
        os.makedirs(os.path.join(home, "www"))
        with open(os.path.join(home, "www", "large"), "wb") as large:
            large.write(os.urandom(1024 * 1024) * (LARGE // (1024 * 1024)))
        config = os.path.join(home, "nginx.conf")
        with open(config, "w") as out:
            out.write(nginx_frame(home, 1, f"""
    sendfile on;
    tcp_nopush on;
    default_type application/octet-stream;
    server {{
        listen 127.0.0.1:{self.port} backlog=1024;
        location = / {{ return 200 "{'x' * SMALL}"; }}
        location = /large {{ root {home}/www; }}
    }}"""))
        self.process = Process([tool("nginx"), "-c", config, "-e", "stderr"], cpus, os.path.join(home, "log"))
        self.process.wait_for_port(self.port)


class Subject:
    """A proxy under test. `start` gives it fresh ports; `env` is for the counting pass."""

    name = ""

    def __init__(self, directory, cpus, backend, tls):
        self.home = os.path.join(directory, self.name)
        os.makedirs(self.home, exist_ok=True)
        self.cpus, self.backend, self.tls = cpus, backend, tls
        self.process = None

    def start(self, env=None):
        self.http, self.https = free_port(), free_port()
        self.process = Process(self.command(), self.cpus, os.path.join(self.home, "log"), env)
        self.process.wait_for_port(self.http)
        self.process.wait_for_port(self.https)

    def stop(self):
        if self.process:
            self.process.stop()
            self.process = None

    def write(self, name, text):
        path = os.path.join(self.home, name)
        with open(path, "w") as out:
            out.write(text)
        return path

    def version(self):
        return ""


class Nginx(Subject):
    name = "nginx"

    def command(self):
        cert, key, _ = self.tls
        config = self.write("nginx.conf", nginx_frame(self.home, len(self.cpus), f"""
    upstream backend {{
        server 127.0.0.1:{self.backend.port};
        keepalive 256;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{self.http} backlog=1024;
        listen 127.0.0.1:{self.https} ssl http2 backlog=1024;
        ssl_certificate {cert};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.2 TLSv1.3;
        location / {{
            proxy_pass http://backend;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}"""))
        return [tool("nginx"), "-c", config, "-e", "stderr"]

    def version(self):
        return subprocess.run([tool("nginx"), "-v"], capture_output=True, text=True).stderr.split("/")[-1].strip()


class Haproxy(Subject):
    name = "haproxy"

    def command(self):
        config = self.write("haproxy.cfg", f"""
global
    nbthread {len(self.cpus)}
    maxconn 4096

defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    http-reuse always

frontend bench
    bind 127.0.0.1:{self.http}
    bind 127.0.0.1:{self.https} ssl crt {self.tls[2]} alpn h2,http/1.1
    default_backend backend

backend backend
    server one 127.0.0.1:{self.backend.port}
""")
        return [tool("haproxy"), "-db", "-q", "-f", config]

    def version(self):
        text = subprocess.run([tool("haproxy"), "-v"], capture_output=True, text=True).stdout
        return text.split("version ")[-1].split()[0]


class Ours(Subject):
    """The release build, configured as an operator would."""

    name = "ours"
    binary = None
    http3 = "false"

    def command(self):
        cert, key, _ = self.tls
        config = self.write("expressgateway.toml", f"""
[runtime]
workers = {len(self.cpus)}

[observability]
metrics_bind = "127.0.0.1:{free_port()}"
log = "error"

[[listeners]]
name = "plain"
address = "127.0.0.1:{self.http}"
protocol = "http"

[[listeners]]
name = "secure"
address = "127.0.0.1:{self.https}"
protocol = "https"
http3 = {self.http3}
tls = {{ cert = "{cert}", key = "{key}" }}

[[routes]]
listener = "plain"
path = "/"
pool = "backend"

[[routes]]
listener = "secure"
path = "/"
pool = "backend"

[[pools.backend.backends]]
address = "127.0.0.1:{self.backend.port}"
""")
        return [self.binary, config]

    def start(self, env=None):
        super().start({"STATE_DIRECTORY": self.home, **(env or {})})

    def version(self):
        return subprocess.run([self.binary, "--version"], capture_output=True, text=True).stdout.splitlines()[0]


class OursWithHttp3(Ours):
    http3 = "true"


def tool(name):
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if not found:
        raise SystemExit(f"bench: {name} is missing; run tools/bench/bootstrap")
    return found
