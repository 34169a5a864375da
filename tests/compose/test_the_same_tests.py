"""The suite of tests/e2e against the shop in containers, and what the README tells a reader to type."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tests.compose.project import ROOT, SERVICES, Project
from tests.compose.telling import Tell

E2E_S = 1800.0


def test_the_e2e_suite_passes(project: Project, tell: Tell, tmp_path: Path) -> None:
    """With all that lets it look behind the edge: container addresses are reached from the host."""
    [etcd] = project.containers("etcd")
    for service in SERVICES:
        one, *_ = project.containers(service)
        (tmp_path / service).mkdir()
        secret = project.run(["docker", "exec", one.id, "cat", "/secrets/client-secret"])
        (tmp_path / service / "client-secret").write_text(secret)
    given = {
        "SHOPMESH_TARGET": project.edges[0],
        "SHOPMESH_ISSUER": project.issuer,
        "SHOPMESH_MAIL": f"127.0.0.1:{project.mail}",
        "SHOPMESH_TELEMETRY": f"127.0.0.1:{project.telemetry}",
        "SHOPMESH_ETCD": f"{etcd.addresses['data']}:2379",
        "SHOPMESH_SECRETS": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/e2e", "-q"],
        env={**os.environ, **given}, cwd=ROOT, capture_output=True, text=True, timeout=E2E_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-10000:] + done.stderr[-2000:]
    tell(done.stdout.splitlines()[-1])


def test_an_operator_finds_nothing_wrong(project: Project) -> None:
    project.shopmesh("doctor")


def test_the_tour_works_as_printed(project: Project) -> None:
    """The part about containers, and by its command the tour of the local shop, but for `buf`, which is not in it."""
    _, walk, _ = _blocks("In containers")
    command, *_ = walk.splitlines()
    _, *by_hand = _blocks("A tour")

    told = _walked(project, walk)
    (id, *_) = re.findall(r"orders/([0-9a-f-]{36})", told)
    said = _walked(project, "\n".join([command, *(block for block in by_hand if not block.startswith("buf "))]), id)

    assert "STATE_PLACED" in said, said
    for word in ("OUT_OF_STOCK", "ann@example.com", '"code":16', "CONFIRMED", "looked at"):
        assert word.replace(" ", "") in said.replace(" ", ""), said


def _blocks(title: str) -> list[str]:
    """The shell commands under a title."""
    (section,) = re.findall(rf"^## {title}\n(.*?)^## ", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    return re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


def _walked(project: Project, script: str, id: str = "") -> str:
    """What one shell says to all of it, stopping at the first command that fails, with the ports of this shop."""
    edge = project.edges[0].rpartition(":")[2]
    for usual, port in {
        "8080": edge,
        "8025": project.mail,
        "8026": project.telemetry,
        "8180": project.keycloak,
    }.items():
        script = re.sub(rf"(127\.0\.0\.1|localhost):{usual}\b", rf"\1:{port}", script)
    if not shutil.which("grpcurl"):
        script = re.sub(r"^grpcurl .*\n", "", script, flags=re.MULTILINE)
    script = re.sub(r"\bID\b", id, script.replace("docker compose", shlex.join(project.command)))
    return project.run(["bash", "-ec", script])
