"""The files for stand-ins of the profile `observability`: programs that Go builds from the modules of their releases.

Each takes some minutes, once for this user. Loki and Grafana have no stand-in: their images are pulled or not there.
"""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from services.cli.local.downloads import cache_folder
from tests.compose.images.contexts import FLAGS, GO
from tests.compose.images.engine import CannotBuild, tell

CORE = "go.opentelemetry.io/collector"
MANIFEST = """\
dist: {{name: otelcol-contrib, version: {wanted}, output_path: made}}
receivers: [{{gomod: {core}/receiver/otlpreceiver v{wanted}}}]
processors: [{{gomod: {core}/processor/memorylimiterprocessor v{wanted}}}]
exporters: [{{gomod: {core}/exporter/otlpexporter v{wanted}}}, {{gomod: {core}/exporter/otlphttpexporter v{wanted}}}]
"""


def collector(context: Path, wanted: str) -> str:
    """Not all of contrib, but what deploy/observability/collector.yaml names, by the collector's own builder."""

    def build(folder: Path, program: Path) -> None:
        (folder / "manifest.yaml").write_text(MANIFEST.format(core=CORE, wanted=wanted))
        _go(folder, "mod", "init", "stand-in")
        _go(folder, "run", f"{CORE}/cmd/builder@v{wanted}", "--skip-compilation", "--config=manifest.yaml")
        _go(folder / "made", "build", *FLAGS, "-o", str(program), ".")

    shutil.copy(_once(f"{wanted}/otelcol-contrib", build), context)
    return f"collector {wanted} built by Go with the components that are used"


def prometheus(context: Path, wanted: str) -> str:
    """Its module calls v3.15.0 v0.315.0. Without its pages, and of the ways to find targets only DNS."""
    major, minor, patch = wanted.removeprefix("v").split(".")
    for name in ("prometheus", "promtool"):
        program = _built_in_place(
            "github.com/prometheus/prometheus",
            f"v0.{major}{minor:0>2}.{patch}",
            name,
            "-tags=remove_all_sd,enable_dns_sd",
        )
        shutil.copy(program, context)
    return f"Prometheus {wanted} built by Go, without its pages"


def jaeger(context: Path, wanted: str) -> str:
    """Up to 2.13.0 a release of Jaeger 2 was one of Jaeger 1 as well, which is what its module counts."""
    if wanted != "2.13.0":
        raise CannotBuild(f"Jaeger {wanted} has no Go module")
    shutil.copy(_built_in_place("github.com/jaegertracing/jaeger", "v1.76.0", "jaeger"), context)
    return f"Jaeger {wanted} built by Go, without its pages"


def _built_in_place(module: str, version: str, name: str, *flags: str) -> Path:
    """./cmd/NAME of a module that replaces others, which Go does for the main module alone: so a copy of it is that."""

    def build(folder: Path, program: Path) -> None:
        source = Path(json.loads(_go(folder, "mod", "download", "-json", f"{module}@{version}"))["Dir"])
        made = folder / "source"
        shutil.copytree(source, made, copy_function=shutil.copyfile)
        for path in (made, *made.rglob("*/")):
            path.chmod(0o755)
        _go(made, "build", *FLAGS, *flags, "-o", str(program), f"./cmd/{name}")

    return _once(f"{version}/{name}", build)


def _once(name: str, build: Callable[[Path, Path], None]) -> Path:
    """The program of that name below the cache, which `build` makes in a folder of its own."""
    program = cache_folder() / "stand-ins" / name
    if not program.exists():
        if not shutil.which("go"):
            raise CannotBuild(f"{program.name} is built by Go, which is not installed")
        tell(f"  building {name} (once, some minutes)")
        with tempfile.TemporaryDirectory(prefix="shopmesh-go-") as folder:
            build(Path(folder), program)
    return program


def _go(folder: Path, *words: str) -> str:
    """What it prints. Raises CannotBuild."""
    environment = {**GO, "GOWORK": "off"}
    done = subprocess.run(["go", *words], env=environment, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotBuild(f"go {' '.join(words)}: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout
