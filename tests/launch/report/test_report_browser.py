"""The page about runs in a real browser: it is drawn, and asks the network for nothing."""

import html
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from r2ac.launch.report import write_report

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in NAMES if (path := shutil.which(name))), "")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on PATH (Debian: apt-get install chromium)")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--enable-logging=stderr",
    # Nothing leaves the machine.
    "--host-resolver-rules=MAP * ~NOTFOUND",
)


def browse(page: Path, folder: Path, *flags: str) -> "subprocess.CompletedProcess[str]":
    """Opens the page with a profile of its own, and notes every request."""
    files = [f"--user-data-dir={folder / 'profile'}", f"--log-net-log={folder / 'net.json'}"]
    command = [CHROMIUM, *FLAGS, *files, *flags, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done


def complaints(done: "subprocess.CompletedProcess[str]") -> list[str]:
    """What the page has written on the browser's console."""
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def requests(folder: Path) -> set[str]:
    """The addresses that a page has asked for; what the browser itself wants comes from no page."""
    log: dict[str, Any] = json.loads((folder / "net.json").read_text())
    started = log["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    begun = [event.get("params", {}) for event in log["events"] if event["type"] == started]
    return {request["url"] for request in begun if request.get("initiator", "not an origin") != "not an origin"}


@pytest.fixture(scope="module")
def page(train_tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    runs = [train_tiny(folder / gradient, {"--gradient": gradient}) for gradient in ("rtrl", "tbptt")]
    return write_report(runs, folder / "page.html")


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_is_drawn_and_asks_for_nothing(page: Path, tmp_path: Path, dark: bool) -> None:
    picture = tmp_path / "page.png"
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    done = browse(page, tmp_path, f"--screenshot={picture}", "--window-size=1280,3000", *scheme)
    assert complaints(done) == []
    assert requests(tmp_path) == set()
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB"))
    paper = pixels[1, 1]
    assert paper.mean() < 40 if dark else (paper == 255).all()
    drawn = (pixels != paper).any(axis=2)
    # Text and drawings from top to bottom, in the colours of both configurations.
    assert all(part.any() for part in np.array_split(drawn[:2400], 8))
    for colour in ((0, 114, 178), (213, 94, 0)):
        assert (pixels == colour).all(axis=2).sum() > 100


def test_nothing_is_wider_than_a_telephone(page: Path, tmp_path: Path) -> None:
    """Tables and the picture of what is remembered scroll within themselves."""
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<iframe id="page" style="width:375px;height:800px" srcdoc="{html.escape(page.read_text())}"></iframe>'
        "<script>const page = document.getElementById('page'); page.onload = () => {"
        "const root = page.contentDocument.documentElement;"
        "document.body.dataset.sizes = [root.clientWidth, root.scrollWidth, root.scrollHeight].join(' ')}</script>"
    )
    text = browse(frame, tmp_path, "--dump-dom", "--virtual-time-budget=5000").stdout
    sizes = text.split('data-sizes="')[1].split('"')[0]
    client, width, height = map(int, sizes.split())
    assert client == width
    assert 360 <= width <= 375
    assert height > 3000


def test_these_tests_notice_requests_and_complaints(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text('<img src="http://example.invalid/dot.png"><script>console.error("complaint")</script>')
    done = browse(page, tmp_path, f"--screenshot={tmp_path / 'page.png'}")
    assert any("complaint" in line for line in complaints(done))
    assert requests(tmp_path) == {"http://example.invalid/dot.png"}
