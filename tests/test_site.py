"""The docs as a site: built strictly, every name and link is there, and what a browser shows."""

import functools
import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
import zlib
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from browser import CHROMIUM, browse, drawn_rows
from processes import run

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Where it is, built strictly: each name that a docstring or a page refers to must be there."""
    for needed in ("sphinx", "myst_parser", "sphinx_book_theme", "latex2mathml", "torch", "optax"):
        pytest.importorskip(needed)
    out = tmp_path_factory.mktemp("site")
    strictly = ["-W", "--keep-going", "-n", "-q", "-E", "-d", str(out / ".doctrees")]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *strictly, str(DOCS), str(out)],
        check=False, timeout=600, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.returncode == 0
    shutil.rmtree(out / ".doctrees")
    for template in (out / "_static").glob("*macros.html"):  # of the theme, no page
        template.unlink()
    return out


# ---- names ----


def inventory(site):
    """Where each object is: its page and the anchor there."""
    packed = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    found = {}
    for line in zlib.decompress(packed).decode().splitlines():
        name, kind, _, place, _ = line.split(" ", 4)
        if kind.startswith("py:"):
            found[name] = place.replace("$", name)
    return found


MODULES = ["gradstep", *(f"gradstep.{of}" for of in (
    "schedules", "schedules.compat", "tuning", "torch", "jax", "tuning.keras", "tuning.lightning",
    "tuning.sklearn", "tuning.transformers",
))]  # fmt: skip
PUBLIC = """
import importlib, json
from sphinx.ext.autodoc.mock import mock

found = {}
for name in MODULES:
    with mock(["gradstep.jax._xla", "keras", "lightning", "transformers"]):
        module = importlib.import_module(name)
    own = [key for key, value in vars(module).items()
           if key[0] != "_" and getattr(value, "__module__", None) == name]
    found[name] = list(getattr(module, "__all__", own))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def public(site):
    """The public names of each module; in a process of its own, since it imports without parts."""
    return json.loads(run(f"MODULES = {MODULES}\n{PUBLIC}", options=()))


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_in_the_reference(module, public, site):
    places = inventory(site)
    assert public[module]
    assert not [name for name in public[module] if f"{module}.{name}" not in places]
    for name in public[module]:
        page, _, anchor = places[f"{module}.{name}"].partition("#")
        assert page.startswith("reference/")
        assert f'id="{anchor}"' in (site / page).read_text(encoding="utf-8")


# ---- links ----


class Page(HTMLParser):
    """The anchors of a page, what it links to, and what it loads."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links, self.loads = set(), [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors.add(given.get("id") or given.get("name"))
        if tag == "a":
            self.links.append(given.get("href") or "")
        elif tag == "link" or "src" in given:
            self.loads.append(given.get("src") or given.get("href") or "")


def test_links(site):
    """Each leads to a file and an anchor that are there, and nothing is loaded from elsewhere."""
    pages = {path: Page(path) for path in site.rglob("*.html")}
    assert len(pages) > 30
    wrong = []
    for path, page in pages.items():
        for link in [*page.links, *page.loads]:
            parts = urlsplit(link)
            if parts.scheme in ("http", "https") and link in page.links:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = pages[target].anchors if target in pages else {parts.fragment}
            if parts.scheme or not target.is_file() or parts.fragment not in {"", *anchors}:
                wrong.append(f"{path.relative_to(site)}: {link}")
    assert not wrong
    for path in [*site.rglob("*.css")]:
        assert not re.search(r"url\([\"']?https?:", path.read_text(encoding="utf-8")), path


def test_pictures_and_formulas(site):
    """Every rule and schedule has its picture, and formulas are drawn by the browser itself."""
    rules = (site / "rules.html").read_text(encoding="utf-8")
    asked = (DOCS / "rules.md").read_text(encoding="utf-8").count("```math")
    assert rules.count('<div class="formula">') == asked > 20
    assert rules.count("</math>") > 2 * asked
    for name in ("rules", "schedules"):
        text = (site / f"{name}.html").read_text(encoding="utf-8")
        for picture in (DOCS / name).glob("*.svg"):
            assert f"_images/{picture.name}" in text or f"_images/{picture.stem}1.svg" in text
            assert picture.stat().st_size < 50_000


# ---- a browser ----


@pytest.fixture(scope="module")
def address(site):
    """The site, served: browsers hold back from files what scripts ask for."""
    handler = functools.partial(Quiet, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


SHOWN = ["index", "choosing-a-rate", "rules", "reference/optimizers"]


@pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [380, 1280])
def test_in_a_browser(width, dark, address, site, tmp_path):
    """Pages are drawn, in their theme, no script fails, and nothing stands out at a side."""
    for page in SHOWN:
        assert drawn_rows(f"{address}/{page}.html", tmp_path, width, dark) > 0.2
    pages = sorted(str(path.relative_to(site)) for path in site.rglob("*.html"))
    frames = "".join(
        f'<iframe src="{page}" width="{width}" height="900"></iframe>' for page in pages
    )
    asked = site / f"asked-{width}-{dark}.html"
    asked.write_text(f"<output></output>{''.join(frames)}{MEASURE}", encoding="utf-8")
    try:
        dom = browse(f"{address}/{asked.name}", tmp_path, width + 100, dark, "--dump-dom")
    finally:
        asked.unlink()
    measured = json.loads(unescape(dom.split("<output>")[1].split("</output>")[0]))
    assert list(measured) == pages
    assert not [page for page, (_, _, wide) in measured.items() if wide > width]
    for page, (heading, words, _) in measured.items():
        if page != "search.html":  # which has nothing before it is asked
            assert heading in words, page
            assert len(words) > 80, page


MEASURE = """<script>
addEventListener("load", () => {
  const measured = {};
  document.querySelectorAll("iframe").forEach(frame => {
    const page = frame.contentDocument;
    measured[frame.getAttribute("src")] = [
      page.querySelector("h1")?.innerText || "", page.body.innerText,
      page.documentElement.scrollWidth,
    ];
  });
  document.querySelector("output").textContent = JSON.stringify(measured);
});
</script>
"""
