"""The static site: what the pages are made of, and how they look to a real Chromium."""

import functools
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import websocket

from tools import book

WIDTHS = (1280, 838)
PREPARED = "document.readyState === 'complete' && (!window.MathJax || MathJax.startup.promise.then(() => true))"
WRONG = """(() => {
    const wrong = [], note = (what, node) => wrong.push(what + ": " + node.textContent.trim().slice(0, 60));
    const scrolls = node => /auto|scroll/.test(getComputedStyle(node).overflowX);
    const boxed = node => node && (scrolls(node) || boxed(node.parentElement));
    const page = document.documentElement, edge = document.querySelector("article")?.getBoundingClientRect().right;
    if (page.scrollWidth > innerWidth) wrong.push("the page is wider than the window");
    for (const node of document.querySelectorAll("article :is(table, pre, img, mjx-container)"))
        if (node.getBoundingClientRect().right > edge + 1 && !boxed(node.parentElement) && !scrolls(node))
            note("leaves the page", node);
    for (const node of document.querySelectorAll(".math"))
        if (!node.querySelector("mjx-container")) note("not typeset", node);
    for (const node of document.querySelectorAll("mjx-merror")) note("not TeX", node);
    for (const node of document.images) if (!node.naturalWidth || !node.alt) wrong.push("no picture: " + node.src);
    const painted = node => getComputedStyle(node).backgroundColor;
    const ground = node => !node ? "rgb(255, 255, 255)" :
        /, 0\\)/.test(painted(node)) ? ground(node.parentElement) : painted(node);
    const light = colour => colour.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
        .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
    const walker = document.createTreeWalker(document.querySelector("article") ?? document.body, NodeFilter.SHOW_TEXT);
    for (let text; text = walker.nextNode();) {
        const node = text.parentElement;
        if (!text.data.trim() || !node.checkVisibility({checkVisibilityCSS: true, checkOpacity: true})) continue;
        const [low, high] = [getComputedStyle(node).color, ground(node)].map(light).sort((a, b) => a - b);
        if ((high + .05) / (low + .05) < 3) note("too faint", node);
    }
    return wrong;
})()"""


class Browser:
    """A headless Chromium, asked over its debugging protocol; `events` holds what it reported."""

    def __init__(self, folder: Path) -> None:
        """Start it with a new profile in a folder."""
        options = "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --remote-debugging-port=0"
        words = ["chromium", *options.split(), "--remote-allow-origins=*", f"--user-data-dir={folder}", "about:blank"]
        self.process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr
        address = next(line for line in self.process.stderr if "listening on" in line).split()[-1]
        threading.Thread(target=self.process.stderr.read, daemon=True).start()  # a full pipe would stop it
        self.socket = websocket.create_connection(address, timeout=60)
        self.events: list[dict[str, Any]] = []
        self.session: dict[str, str] = {}
        self.count = 0
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = {"sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The answer to one call; events that come first are kept."""
        self.count += 1
        self.socket.send(json.dumps({"id": self.count, "method": method, "params": params, **self.session}))
        while (message := json.loads(self.socket.recv())).get("id") != self.count:
            self.events.append(message)
        assert "error" not in message, message
        return message["result"]

    def value(self, script: str) -> Any:
        """What a script returns, once its promise holds."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, script: str) -> None:
        """Wait until a script returns something true."""
        self.value(f"(async () => {{while (!await ({script})) await new Promise(done => setTimeout(done, 20))}})()")

    def open(self, address: str) -> None:
        """Open a page and wait until its equations stand."""
        self.events.clear()
        self.call("Page.navigate", url=address)
        self.wait(f"location.href.startsWith({json.dumps(address)}) && {PREPARED}")

    def show(self, width: int, scheme: str) -> None:
        """Set the width of the window in pixels, and light or dark."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[feature])

    def complaints(self, allowed: str) -> list[str]:
        """Errors in the console, requests that failed, and requests to addresses that begin otherwise."""
        found = []
        for event in self.events:
            method, params = event["method"], event["params"]
            error = params.get("type") == "error" or params.get("entry", {}).get("level") == "error"
            if error or method in ("Runtime.exceptionThrown", "Network.loadingFailed"):
                found.append(json.dumps(params))
            if method == "Network.requestWillBeSent" and not params["request"]["url"].startswith((allowed, "data:")):
                found.append(params["request"]["url"])
        return found


def test_a_page_is_its_file_with_what_the_site_needs():
    assert book.page("docs/a.md", "[x](../README.md) [y](../README.md#z)") == "[x](../index.md) [y](../index.md#z)"
    assert book.page("experiments/b/README.md", "[x](README.md)") == "[x](README.md)"
    assert book.page("figures/docs/table4.md", "| a |") == "# Table 4\n\n| a |"
    assert book.page("figures/docs/claims.md", "a") == "# Verdicts on the claims\n\na"
    index = book.page("README.md", "# a\n")
    assert index.startswith("# a\n\n```{toctree}\n:caption: Notebooks\n:hidden:\n:glob:\nnotebooks/*\n```\n")


def test_links_between_pages_lead_to_pages(tmp_path: Path):
    book.lay(tmp_path)
    links = [
        (path, link)
        for path in tmp_path.rglob("*.*")
        if path.suffix in (".md", ".ipynb")
        for link in re.findall(r"\]\(([^)\s:#]+\.(?:md|ipynb|png|svg))[)#]", path.read_text(encoding="utf-8"))
    ]
    assert len(links) > 100 and not [(path, link) for path, link in links if not (path.parent / link).exists()]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if not shutil.which("chromium"):
        pytest.skip("needs chromium")
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.process.terminate()
    browser.process.wait()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("furo", reason="./run_all.sh book installs what the site needs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(book, "BOOK", tmp_path_factory.mktemp("site") / "book")
        assert book.main() == 0
        return book.BOOK


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.mark.slow
def test_every_page_fits_and_can_be_read_and_asks_no_other_host(site: Path, address: str, browser: Browser):
    wrong = {}
    pages = [str(path.relative_to(site)) for path in sorted(site.rglob("*.html"))]
    for page in pages:
        browser.open(address + page)
        for width in WIDTHS:
            for scheme in ("light", "dark"):
                browser.show(width, scheme)
                wrong[page, width, scheme] = browser.value(WRONG)
        wrong[page, 0, "console"] = browser.complaints(address)
    assert len(pages) > 30 and not {where: what for where, what in wrong.items() if what}


@pytest.mark.slow
@pytest.mark.parametrize("start", ["http", "file"])
def test_search_finds_a_word_of_a_notebook(start: str, site: Path, address: str, browser: Browser):
    start = address if start == "http" else f"{site.as_uri()}/"
    browser.open(f"{start}search.html?q=spherical")
    browser.wait("/found|match/.test(document.querySelector('#search-results .search-summary')?.textContent)")
    found = browser.value("[...document.querySelectorAll('#search-results li a')].map(link => link.href).join()")
    assert f"{start}notebooks/04_clustering.html" in found and not browser.complaints(start)
