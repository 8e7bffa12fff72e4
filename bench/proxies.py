"""Start the plain HTTP proxies of the bench: nginx, HAProxy and Caddy, one process each, without response buffering."""

import os
import subprocess
from abc import abstractmethod
from typing import ClassVar

from bench.gateways import Gateway, Place, Running, start_child
from bench.peers import program
from bench.procs import free_port


class Proxy(Gateway):
    """A proxy with a configuration file."""

    config: ClassVar[str]
    #: Arguments that print the version.
    version_arguments: ClassVar[tuple[str, ...]]

    def missing(self) -> str | None:
        return None if program(self.name) else f"not installed: apt-get install {self.name}"

    def version(self) -> str:
        command = [str(program(self.name)), *self.version_arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return version_in((done.stdout + done.stderr).strip())

    def start(self, place: Place) -> Running:
        port = free_port()
        path = place.folder / f"{self.name}.conf"
        user = "user root;" if os.geteuid() == 0 else ""
        path.write_text(self.config.format(folder=place.folder, upstream=place.full_port, port=port, user=user))
        command = [str(program(self.name)), *self.arguments(place, str(path))]
        return start_child(command, port, place, within_s=10, env={"GOMAXPROCS": "1", "HOME": str(place.folder)})

    @abstractmethod
    def arguments(self, place: Place, path: str) -> list[str]:
        """Return the arguments that serve this configuration in the foreground."""


class Nginx(Proxy):
    name, title, version_arguments = "nginx", "nginx, proxy only", ("-v",)
    config = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log; {user}
worker_rlimit_nofile 20000;
events {{ worker_connections 16384; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream mock {{ server 127.0.0.1:{upstream}; keepalive 128; }}
  keepalive_requests 10000000; client_max_body_size 4m; client_body_buffer_size 1m;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://mock; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
"""

    def arguments(self, place: Place, path: str) -> list[str]:
        return ["-c", path, "-p", str(place.folder)]


class HAProxy(Proxy):
    """As its manual says for interactive responses: without `http-no-delay` it waits for full packets."""

    name, title, version_arguments = "haproxy", "HAProxy, proxy only", ("-v",)
    config = """
global
  nbthread 1
  maxconn 9000
defaults
  mode http
  option http-no-delay
  http-reuse always
  timeout connect 5s
  timeout client 5m
  timeout server 5m
frontend bench
  bind 127.0.0.1:{port} backlog 4096
  default_backend mock
backend mock
  server mock 127.0.0.1:{upstream}
"""

    def arguments(self, place: Place, path: str) -> list[str]:
        return ["-db", "-f", path]


class Caddy(Proxy):
    """`flush_interval -1` writes each part of a response immediately."""

    name, title, version_arguments = "caddy", "Caddy, proxy only (Go)", ("version",)
    config = """
{{
  admin off
  auto_https off
}}
http://127.0.0.1:{port} {{
  reverse_proxy 127.0.0.1:{upstream} {{
    flush_interval -1
    transport http {{
      keepalive_idle_conns_per_host 512
    }}
  }}
}}
"""

    def arguments(self, place: Place, path: str) -> list[str]:
        return ["run", "--adapter", "caddyfile", "--config", path]


def version_in(text: str) -> str:
    """Return the first word of the text that looks like a version: `nginx version: nginx/1.22.1` has 1.22.1."""
    words = [word.strip("v,") for word in text.replace("/", " ").split()]
    return next((word for word in words if word[:1].isdigit() and "." in word), text.split("\n", maxsplit=1)[0])
