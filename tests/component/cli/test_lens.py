import os
import subprocess
import sys
from pathlib import Path


def test_a_stack_starts_without_lens_where_it_cannot_be_downloaded(tmp_path: Path) -> None:
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:1")
    done = subprocess.run(
        [sys.executable, "-m", "services.cli.local.lens"],
        env=os.environ | nowhere | {"XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0
    assert "Zipkin Lens is missing, so traces are not drawn: zipkin-lens-3.4.3.jar cannot be downloaded" in done.stderr
    assert f"put zipkin-lens-3.4.3.jar into {tmp_path}/shopmesh yourself" in done.stderr
    assert [*(tmp_path / "shopmesh").iterdir()] == []
