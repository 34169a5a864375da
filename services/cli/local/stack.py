"""The processes of a local shop and how they are wired, as data."""

import os
import shutil
import signal
import sys
import sysconfig
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template

from services.cli.local import envoy_bootstrap, keycloak, lens
from services.cli.local.downloads import cache_folder
from services.cli.local.etcd import release
from services.cli.local.postgres import SUPERUSER, Postgres
from services.cli.local.process import Process
from services.cli.local.readiness import accepts, answers, listens, registered, takes_sessions
from services.cli.local.releases import Release
from services.cli.local.state import StateFolder
from services.cli.settings import HOST, SERVICES
from services.failure import Failure
from services.files import resource

CLOCK = {"TZ": "UTC"}
"""For programs that log local times without saying so."""

PASSED_ON = (
    "SHOPMESH_SMTP_URL", "SHOPMESH_OTLP_ENDPOINT", "SHOPMESH_VERSION",
    "SHOPMESH_TELEMETRY_MAX_BYTES", "SHOPMESH_TELEMETRY_MAX_AGE_S",
)  # fmt: skip
"""What the person who starts a stack may decide for its processes."""

FOREIGN = ("SHOPMESH_", "PG", "ETCD_", "KC_", "JAVA_", "JDK_JAVA_", "OTEL_", "GRPC_")
"""Prefixes of variables that would change a process behind the stack's back."""

NATS_CONFIG = Template("""\
listen: "$host:$port"
server_name: shopmesh
logtime_utc: true
jetstream { store_dir: "$folder", sync_interval: always, max_memory_store: 64MB, max_file_store: 4GB }
""")


@dataclass(frozen=True, slots=True)
class Stack:
    """One shop on this machine: its folder, its ports, how many of which service."""

    state: Path
    ports: Mapping[str, int]
    instances: Mapping[Release, int]
    """How many of which release. Of every service one instance runs where nothing is said."""
    demo_data: bool = True

    @property
    def issuer(self) -> str:
        return f"http://localhost:{self.ports['keycloak']}/realms/shop"

    @property
    def postgres(self) -> Postgres:
        return Postgres(self.state, as_root=os.geteuid() == 0)

    def processes(self) -> list[Process]:
        return [
            self._etcd(),
            self._nats(),
            self._postgres(),
            self._keycloak(),
            self._mailbox(),
            self._telemetry(),
            self._controlplane(),
            self.envoy("envoy", self.ports["envoy-admin"]),
            *(
                self.instance(release, release.instance(number + 1))
                for release, instances in {**dict.fromkeys(map(Release, SERVICES), 1), **self.instances}.items()
                for number in range(instances)
            ),
            *([self._demo_data()] if self.demo_data else []),
        ]

    def prepare(self, names: Collection[str]) -> None:
        """Writes the files that the processes of these names are configured by."""
        for service in SERVICES:
            file = self._secret_file(service)
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            file.write_text(keycloak.secret(service))
            file.chmod(0o600)
        config = self.state / "nats" / "nats.conf"
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(NATS_CONFIG.substitute(host=HOST, port=self.ports["nats"], folder=config.parent / "store"))
        if "envoy" in names:
            self.write_bootstrap("envoy", self.ports["envoy-admin"])

    def _etcd(self) -> Process:
        client, peer = f"http://{HOST}:{self.ports['etcd']}", f"http://{HOST}:{self.ports['etcd-peer']}"
        etcd = release()
        return Process(
            "etcd",
            (
                str(etcd.program), "--name=shopmesh", f"--data-dir={self.state / etcd.name}",
                f"--listen-client-urls={client}", f"--advertise-client-urls={client}", f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=shopmesh={peer}", "--log-level=warn",
                # One member elects itself: no need to wait a second for others.
                "--heartbeat-interval=20", "--election-timeout=200",
                "--auto-compaction-mode=periodic", "--auto-compaction-retention=1h",
            ),
            environment=_environment(CLOCK),
            ports=("etcd", "etcd-peer"),
            ready=answers(self.ports["etcd"], "/health", f"{HOST}:{self.ports['etcd']}"),
        )  # fmt: skip

    def _nats(self) -> Process:
        program = Path(sysconfig.get_path("scripts")) / "nats-server"
        return Process(
            "nats",
            (str(program), "-c", str(self.state / "nats" / "nats.conf")),
            environment=_environment(),
            ports=("nats",),
            ready=accepts(self.ports["nats"]),
        )

    def _postgres(self) -> Process:
        port = self.ports["postgres"]
        return Process(
            "postgres",
            self.postgres.command(port),
            environment=_environment(),
            before=(sys.executable, "-m", "services.cli.local.postgres", "--state", str(self.state)),
            after=self.postgres.databases_command(port),
            ports=("postgres",),
            ready=takes_sessions(port, SUPERUSER),
            user=self.postgres.user,
            cwd=Path("/"),
            stop_signal=signal.SIGINT,  # SIGTERM would wait for every client to leave
            death_signal=signal.SIGINT,
            stop_s=6.0,  # it writes what is in memory to the disk
        )

    def _keycloak(self) -> Process:
        cache = keycloak.Cache(cache_folder(), resource("keycloak/shop-realm.json"))
        home, port, management = self.state / "keycloak", self.ports["keycloak"], self.ports["keycloak-management"]
        return Process(
            "keycloak",
            keycloak.run_command(cache, home, port, management),
            environment=_environment(CLOCK),
            before=(
                sys.executable, "-m", "services.cli.local.keycloak", "--realm", str(cache.realm), "--home", str(home),
                "--port", str(port), "--management-port", str(management),
            ),
            ports=("keycloak", "keycloak-management"),
            ready=answers(port, "/realms/shop/protocol/openid-connect/certs", f"localhost:{port}"),
            nice=10,
        )  # fmt: skip

    def _mailbox(self) -> Process:
        listen = {
            "SHOPMESH_SMTP_LISTEN": f"{HOST}:{self.ports['smtp']}",
            "SHOPMESH_MAIL_LISTEN": f"{HOST}:{self.ports['mail']}",
        }
        return Process(
            "mailbox",
            _module("mailbox"),
            environment=_environment(listen),
            ports=("smtp", "mail"),
            ready=accepts(self.ports["mail"], self.ports["smtp"]),
        )

    def _telemetry(self) -> Process:
        """Nobody needs it: while it is away, what the others send is dropped where it was made."""
        own = {
            "SHOPMESH_INSTANCE": "telemetry",
            "SHOPMESH_OTLP_LISTEN": f"{HOST}:{self.ports['otlp']}",
            "SHOPMESH_OTLP_HTTP_LISTEN": f"{HOST}:{self.ports['otlp-http']}",
            "SHOPMESH_TELEMETRY_LISTEN": f"{HOST}:{self.ports['telemetry']}",
            "SHOPMESH_TELEMETRY_DIR": str(self.state / "telemetry"),
            "SHOPMESH_LOGS": str(StateFolder(self.state).logs),
            "SHOPMESH_POSTGRES": f"{HOST}:{self.ports['postgres']}",
            "SHOPMESH_LENS": str(lens.jar()),
        }
        return Process(
            "telemetry",
            _module("telemetry"),
            environment=_environment(own),
            before=() if lens.jar().exists() else (sys.executable, "-m", "services.cli.local.lens"),
            ports=("otlp", "otlp-http", "telemetry"),
            ready=accepts(self.ports["telemetry"], self.ports["otlp"], self.ports["otlp-http"]),
        )

    def _controlplane(self) -> Process:
        listen = {
            "SHOPMESH_INSTANCE": "controlplane",
            "SHOPMESH_ADS_LISTEN": f"{HOST}:{self.ports['ads']}",
            "SHOPMESH_EDGE_LISTEN": f"{HOST}:{self.ports['edge']}",
            "SHOPMESH_MESH_LISTEN": f"{HOST}:{self.ports['mesh']}",
            "SHOPMESH_ENVOY_ADMIN": f"{HOST}:{self.ports['envoy-admin']}",
        }
        return Process(
            "controlplane",
            _module("controlplane"),
            environment=_environment(self._shared(), listen),
            ports=("ads",),
            ready=accepts(self.ports["ads"]),
            needs=("etcd",),
        )

    def envoy(self, name: str, admin: int) -> Process:
        """An Envoy with its admin page at that port. Several may listen on the ports of the shop at once."""
        # One JSON line per message, as every other part writes.
        form = '{"time":"%Y-%m-%dT%H:%M:%S.%eZ","level":"%l","service":"envoy","message":"%j"}'
        return Process(
            name,
            (
                _program("envoy/_bin/envoy"), "-c", str(self.state / f"{name}.yaml"), "--disable-hot-restart",
                "--log-level", "warning", "--log-format", form, "--file-flush-interval-msec", "300",
                "--drain-time-s", "2",
            ),
            environment=_environment(CLOCK),
            ports=("edge", "mesh", "envoy-admin"),
            ready=listens(admin, f"{HOST}:{self.ports['edge']}"),
            needs=("controlplane",),
        )  # fmt: skip

    def write_bootstrap(self, name: str, admin: int) -> None:
        """The file that such an Envoy starts with."""
        bootstrap = envoy_bootstrap.rendered(name, admin=(HOST, admin), ads=(HOST, self.ports["ads"]))
        (self.state / f"{name}.yaml").write_text(bootstrap)

    def instance(self, release: Release, instance: str) -> Process:
        """One instance of a release, under that name."""
        service = release.service
        own = {
            "SHOPMESH_INSTANCE": instance,
            "SHOPMESH_LISTEN": f"{HOST}:0",
            "SHOPMESH_MESH": f"{HOST}:{self.ports['mesh']}",
            "SHOPMESH_DATABASE_URL": f"postgresql://{service}@{HOST}:{self.ports['postgres']}/{service}",
            "SHOPMESH_NATS_URL": f"nats://{HOST}:{self.ports['nats']}",
            "SHOPMESH_SMTP_URL": f"smtp://{HOST}:{self.ports['smtp']}",
            "SHOPMESH_CLIENT_ID": service,
            "SHOPMESH_CLIENT_SECRET_FILE": str(self._secret_file(service)),
        }
        version = {"SHOPMESH_VERSION": release.version} if release.version else {}
        return Process(
            instance,
            _module(service),
            environment={**_environment(self._shared(), own), **version},
            ready=registered(self.ports["etcd"], service, instance),
            needs=("etcd", "nats", "postgres"),
            stop_s=5.0,
        )

    def _demo_data(self) -> Process:
        places = {"SHOPMESH_EDGE": f"{HOST}:{self.ports['edge']}", "SHOPMESH_ISSUER": self.issuer}
        return Process(
            "demo data",
            (sys.executable, "-m", "services.cli.shop.demo_data"),
            environment=_environment(places),
            needs=("keycloak", "envoy", "product", "inventory"),
            once=True,
        )

    def _shared(self) -> dict[str, str]:
        return {
            "SHOPMESH_ETCD": f"{HOST}:{self.ports['etcd']}",
            "SHOPMESH_ISSUER": self.issuer,
            "SHOPMESH_AUDIENCE": "shop-api",
            "SHOPMESH_STATE_DIR": str(self.state / "last-good"),
            "SHOPMESH_OTLP_ENDPOINT": f"http://{HOST}:{self.ports['otlp']}",
        }

    def _secret_file(self, service: str) -> Path:
        return self.state / "secrets" / service


def remove(state: Path) -> None:
    """The whole state of a stack that does not run, also what root's PostgreSQL keeps elsewhere."""
    Postgres(state, as_root=os.geteuid() == 0).remove()
    shutil.rmtree(state, ignore_errors=True)


def _module(name: str) -> tuple[str, ...]:
    return (sys.executable, "-m", f"services.{name}")


def _program(path: str) -> str:
    """A binary inside an installed package, without the Python script around it."""
    program = Path(sysconfig.get_path("platlib")) / path
    if not program.exists():
        raise Failure(f"{program.name} is not installed in this environment: run `make run`, which installs it")
    return str(program)


def _environment(*own: Mapping[str, str]) -> dict[str, str]:
    """Ours without what would lead a process astray (proxies: everything is on this machine), then its own."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(FOREIGN) and not name.lower().endswith("_proxy")
    }
    # GRPC_ENABLE_FORK_SUPPORT: none of our processes forks, and the hooks for it cost time.
    settings = {"PYTHONUNBUFFERED": "1", "GRPC_ENABLE_FORK_SUPPORT": "0"}
    for values in own:
        settings.update(values)
    chosen = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return {**kept, **settings, **chosen}
