"""The page in a real browser: content, speed, keyboard, touch, and foreign text that stays text."""

import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace

import httpx
import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from retreever.data import beir
from retreever.data.dataset import Passage
from tests.support import tiny
from tests.support.bundles import tiny_bundle, tiny_workspace

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.page,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver (Debian: chromium-driver)"),
]
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip
DEPTH = 9  # 1,023 nodes
HOSTILE = "<script>window.broken = 1</script> <img src=x onerror='window.broken = 2'> </p> &lt;b&gt; baba {{1+1}}"


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """The address of the page over a corpus with hostile passages, in a process of its own."""
    folder = tmp_path_factory.mktemp("page")
    workspace = tiny_workspace(folder)
    dataset = tiny.tiny_dataset()
    hostile = [Passage(f"<img src=x onerror='window.broken = {i}'>", HOSTILE, title=HOSTILE[:40]) for i in (3, 4)]
    beir.write_beir(replace(dataset, corpus=(*dataset.corpus, *hostile)), workspace.dataset_folder("tiny"))
    bundle = tiny_bundle(folder, workspace, tree__depth=DEPTH)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tests.support.local_service", str(bundle), str(port)]
    with subprocess.Popen(command, env=os.environ) as process:
        url = f"http://127.0.0.1:{port}/"
        try:
            _until(lambda: process.poll() is not None or _answers(url), 60)
            yield url
        finally:
            process.terminate()


def _answers(url):
    try:
        return httpx.get(f"{url}v1/model").status_code == 200
    except httpx.TransportError:
        return False


def _until(done, seconds):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"nothing within {seconds} s"
        time.sleep(0.02)


@contextmanager
def chromium(folder):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={folder}", "--window-size=1280,900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.fixture
def page(driver, service):
    """The page, fresh; afterwards nothing was logged and no other host was asked."""
    driver.get("about:blank")
    driver.get_log("browser")
    driver.get_log("performance")
    opened = Page(driver, service)
    opened.open()
    yield opened
    assert driver.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    assert f"{service}v1/tree" in asked and {url for url in asked if not url.startswith(service)} <= {"about:blank"}


class Page:
    """The actions and the view of a person."""

    def __init__(self, driver, url):
        self.driver, self.url = driver, url

    def open(self, fragment=""):
        self.driver.get(self.url + fragment)
        _until(lambda: self.marks("tree-drawn"), 20)

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def marks(self, name):
        return self.run("return performance.getEntriesByName(arguments[0]).map((mark) => mark.startTime)", name)

    def at(self, name):
        return self.driver.find_element(By.ID, name)

    def ask(self, text):
        """Type a text anew, and wait for its answer."""
        self.at("query").clear()
        self.at("query").send_keys(text)
        self.shown(text)

    def shown(self, text):
        last = "const marks = performance.getEntriesByName('shown'); return marks.length ? marks.at(-1).detail : null"
        _until(lambda: self.run(last) == text, 10)

    def ids(self):
        return self.run("return [...document.querySelectorAll('.hit')].map((item) => item.hit.id)")

    def level(self):
        return int(self.at("level").get_attribute("value"))

    def press(self, *keys):
        self.driver.switch_to.active_element.send_keys(*keys)

    def focus(self):
        return self.run("return document.activeElement.id || document.activeElement.className")

    def card(self, text):
        WebDriverWait(self.driver, 5).until(lambda _: text in self.at("node").text)
        return self.at("node").text

    def picture(self):
        self.run("return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return self.run("return document.getElementById('tree').toDataURL()")


def api(page, **asked):
    return httpx.post(f"{page.url}v1/search", json=asked).json()


def test_the_tree_is_drawn_within_a_second(page):
    assert page.marks("tree-drawn")[0] < 1000
    assert len({page.picture()[i : i + 50] for i in range(0, 5000, 50)}) > 50  # no empty canvas


def test_results_come_within_300_ms_of_the_last_key(page):
    took = []
    for text in ("ba be bi", "ku lan", "pon ren so", "to mi", "han den"):
        page.ask(text)
        took.append(page.marks("shown")[-1] - page.marks("typed")[-1])
    assert statistics.median(took) < 300, took
    assert page.ids() == [hit["id"] for hit in api(page, query="han den")["hits"]]
    assert "of 302 passages" in page.at("status").text


def test_foreign_text_is_never_markup(page):
    page.ask(f"{HOSTILE[:40]} {HOSTILE}")
    hostile = [item for item in page.driver.find_elements(By.CSS_SELECTOR, ".hit") if "<script>" in item.text]
    assert len(hostile) == 2 and all(HOSTILE[:40] in item.text for item in hostile)
    hostile[0].send_keys(Keys.ENTER)
    assert HOSTILE in hostile[0].text and "onerror='window.broken = " in hostile[0].text
    found = next(i for i in range(511, 1023) if "<img" in httpx.get(f"{page.url}v1/nodes/{i}").text)
    page.run("document.getElementById('tree').focus()")
    _walk(page, found)
    assert "<script>" in page.card(f"node {found} ")
    inside = "return document.querySelectorAll('#hits script, #hits img, #node script, #node img').length"
    assert page.run(inside) == 0 and page.run("return window.broken") is None


def _walk(page, node):
    """From the root to a node, by keys: down, and to the neighbour where that was the other child."""
    page.press(Keys.ARROW_DOWN)
    for step in reversed([(node + 1) >> d for d in range((node + 1).bit_length() - 1)]):
        page.press(Keys.ARROW_DOWN)
        wanted = step - 1
        said = page.card(f"level {step.bit_length() - 1} ·")
        at = int(re.search(r"node (\d+)", said)[1])
        if at != wanted:
            page.press(Keys.ARROW_LEFT if at > wanted else Keys.ARROW_RIGHT)
        page.card(f"node {wanted} ")


def test_marked_words_are_those_of_the_query(page):
    page.ask("ba be bi")
    marked = page.run("return [...document.querySelectorAll('.hit mark')].map((mark) => mark.textContent)")
    assert marked and set(marked) <= {"ba", "be", "bi"}


def test_by_keyboard_alone(page):
    page.run("document.activeElement.blur()")
    page.press("/")
    assert page.focus() == "query"
    page.ask("ba be bi")
    page.press(Keys.ARROW_DOWN)
    assert page.run("return document.activeElement.hit.id") == page.ids()[0]
    page.press(Keys.ENTER)
    assert page.focus() == "hit open" and "the query goes" in page.driver.switch_to.active_element.text
    page.press(Keys.ARROW_DOWN)
    assert page.run("return document.activeElement.hit.id") == page.ids()[1]
    page.press(Keys.ARROW_UP)
    page.press(Keys.ARROW_UP)
    assert page.focus() == "query"
    page.press(Keys.TAB)
    page.press("[")
    _until(lambda: page.level() == DEPTH - 1, 5)
    page.press("t")
    assert page.focus() == "tree"
    page.press(Keys.ARROW_DOWN)
    assert "the whole corpus" in page.card("node 0")
    page.press(Keys.ARROW_DOWN)
    said = page.card("level 1")
    page.press(Keys.ARROW_RIGHT)
    other = 2 if "node 1 " in said else 1
    assert "Typical passages" in page.card(f"node {other} ")
    page.press(Keys.ARROW_UP)
    page.card("node 0")
    page.press(Keys.ESCAPE)
    assert not page.at("node").is_displayed()


def test_the_slider_ranks_again_and_sends_no_more_than_needed(page):
    page.ask("ba be bi")
    slider = page.at("level")
    slider.send_keys(Keys.ARROW_LEFT * 6)
    _until(lambda: page.ids() == [hit["id"] for hit in api(page, query="ba be bi", level=DEPTH - 6)["hits"]], 10)
    assert f"{DEPTH - 6} of {DEPTH} · 8 numbers" in page.at("level-told").text
    before = page.run("return performance.getEntriesByType('resource').length")
    page.run("""
        const slider = document.getElementById("level");
        for (let i = 0; i < 60; i++) { slider.value = 1 + (i % 9); slider.dispatchEvent(new Event("input")); }
        slider.value = 7; slider.dispatchEvent(new Event("input"));
    """)
    _until(lambda: page.ids() == [hit["id"] for hit in api(page, query="ba be bi", level=7)["hits"]], 10)
    assert page.run("return performance.getEntriesByType('resource').length") - before <= 3
    assert "level=7" in page.driver.current_url
    page.open("#q=ku+lan&level=4")
    page.shown("ku lan")
    assert page.level() == 4 and page.ids() == [hit["id"] for hit in api(page, query="ku lan", level=4)["hits"]]


def test_a_hit_shows_its_relevance_and_its_similarity_when_it_is_open(page):
    page.ask("ba be bi")
    found = api(page, query="ba be bi")["hits"][0]
    first = page.driver.find_element(By.CSS_SELECTOR, ".hit")
    assert found["relevance"] is not None and first.find_element(By.CSS_SELECTOR, ".score").text.endswith(" %")
    assert f"{found['score']:.4f}" not in first.text
    first.send_keys(Keys.ENTER)
    assert f"similarity {found['score']:.4f}" in first.text
    page.at("level").send_keys(Keys.ARROW_LEFT * 2)  # a level without relevance
    score = f"{api(page, query='ba be bi', level=DEPTH - 2)['hits'][0]['score']:.4f}"
    _until(lambda: page.driver.find_element(By.CSS_SELECTOR, ".hit .score").text == score, 10)


def test_more_can_be_shown_and_an_empty_box_shows_none(page):
    page.ask("ba be bi")
    page.at("more").click()
    _until(lambda: len(page.ids()) == 20, 5)
    page.at("query").clear()
    page.at("query").send_keys("x", Keys.BACKSPACE)
    _until(lambda: not page.ids(), 5)
    assert page.at("start").is_displayed() and not page.at("more").is_displayed()


def test_the_tree_by_mouse(page):
    page.ask("ba be bi")
    time.sleep(0.5)  # the flow has come to rest
    still = page.picture()
    mouse, tree = ActionChains(page.driver, duration=50), page.at("tree")
    mouse.click_and_hold(tree).move_by_offset(80, 40).release().perform()
    moved = page.picture()
    assert moved != still and not page.at("node").is_displayed()  # a drag chooses nothing
    page.at("zoom-in").click()
    assert page.picture() != moved
    page.at("zoom-all").click()
    assert page.picture() == still
    mouse.move_to_element(tree).click().perform()
    page.card("the whole corpus")
    page.driver.find_element(By.CSS_SELECTOR, "#node .words button").click()
    page.card("level 1")
    page.driver.find_element(By.CSS_SELECTOR, "#node .close").click()
    assert page.picture() == still
    place = page.driver.find_elements(By.CSS_SELECTOR, ".place button")[-1]
    node = re.search(r"node (\d+)", place.get_attribute("title"))[1]
    place.click()
    page.card(f"node {node} ")


def test_1023_nodes_pan_and_zoom_smoothly(page):
    page.ask("ba be bi")
    frames = page.driver.execute_async_script("""
        const [done, canvas] = [arguments[0], document.getElementById("tree")];
        const box = canvas.getBoundingClientRect();
        const [x, y, times] = [box.left + box.width / 2, box.top + box.height / 2, []];
        (function frame(last) {
            const sign = times.length < 40 ? -1 : 1;
            const at = { clientX: x, clientY: y, cancelable: true };
            canvas.dispatchEvent(new WheelEvent("wheel", { deltaY: 60 * sign, ...at }));
            requestAnimationFrame((now) => {
                times.push(now - last);
                times.length < 80 ? frame(now) : done(times.slice(1));
            });
        })(performance.now());
    """)
    assert statistics.median(frames) < 40, statistics.quantiles(frames)


def test_on_a_phone(page):
    page.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        page.open()
        page.ask("ba be bi")
        assert page.run("return document.documentElement.scrollWidth <= innerWidth && innerWidth === 390")
        high = "return [...document.querySelectorAll('.tabs button, .round, #query')].map((item) => item.offsetHeight)"
        assert all(height >= 34 for height in page.run(high))
        assert page.at("hits").is_displayed() and not page.at("tree").is_displayed()
        page.at("tab-tree").click()
        assert page.at("tree").is_displayed() and not page.at("hits").is_displayed()
        page.at("tab-results").click()
        page.driver.find_element(By.CSS_SELECTOR, ".place button").click()
        page.card("Typical passages")
        assert page.at("tree").is_displayed()
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


CONTRAST = """
    const style = getComputedStyle(document.documentElement);
    const light = (name) => {
        const hex = style.getPropertyValue(name).trim();
        const [r, g, b] = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255)
            .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    return ["--paper", "--panel"].flatMap((back) => ["--ink", "--soft", "--accent"].map((front) => {
        const [a, b] = [light(back), light(front)].sort((x, y) => y - x);
        return (a + 0.05) / (b + 0.05);
    }));
"""


def test_dark_and_light_are_both_readable(page):
    ground = "return getComputedStyle(document.body).backgroundColor"
    assert page.run(ground) == "rgb(250, 249, 246)" and min(page.run(CONTRAST)) >= 4.5
    page.driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    try:
        assert page.run(ground) == "rgb(17, 22, 26)" and min(page.run(CONTRAST)) >= 4.5
        page.at("theme").click()
        assert page.run(ground) == "rgb(250, 249, 246)"
        page.open()
        assert page.run(ground) == "rgb(250, 249, 246)"  # it is remembered
    finally:
        page.run("localStorage.clear()")
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_the_model_is_named(page):
    page.at("model-open").click()
    facts = page.at("model-facts").text
    assert f"{DEPTH} levels, 512 leaves" in facts and "302 passages" in facts
    page.press(Keys.ESCAPE)
    assert not page.at("model").is_displayed()


@pytest.mark.parametrize(
    ("address", "link"),
    [("https://runs.example/7", "https://runs.example/7"), ("javascript:alert(1)", None), (None, None)],
)
def test_a_run_is_linked_to_where_its_page_is_known(page, address, link):
    told = page.driver.execute_async_script(
        """
        const [address, done] = arguments;
        import("/page/model.js").then(({ facts, named }) => {
            const model = {
                version: "3", digest: "ab", encoder: "org/minilm", depth: 4, similarity: "ntvd",
                run_id: "0f3a", run_url: address, documents: 30000, metrics: { "test/ndcg_at_10": 0.5 },
                canary: { version: "4", share: 0.1 }, fault: null, canary_fault: "it is broken",
            };
            const list = document.createElement("dl");
            list.append(...facts(model, { passages: 30000, sampled: 20000 }));
            const found = list.querySelector("a");
            done([named(model), list.textContent, found && found.getAttribute("href")]);
        });
        """,
        address,
    )
    assert told[0] == "version 3 · minilm" and told[2] == link
    for said in (
        "0f3a",
        "0.5000",
        "30,000 passages, explained by 20,000",
        "version 4, 10 % of searches",
        "it is broken",
    ):
        assert said in told[1]


def test_no_foreign_script_runs(service, tmp_path):
    with chromium(tmp_path / "own") as driver:
        page = Page(driver, service)
        page.open()
        page.run("""
            const image = new Image(); image.src = "http://192.0.2.1/seen.png"; document.body.append(image);
            window.refused = 0;
            try { document.body.insertAdjacentHTML("beforeend", "<b>markup</b>"); } catch { window.refused++; }
            try { document.body.setAttribute("onclick", "window.broken = 1"); } catch { window.refused++; }
            document.body.click();
        """)
        assert page.run("return [window.refused, window.broken]") == [2, None]
        _until(lambda: "Content Security Policy" in "".join(e["message"] for e in driver.get_log("browser")), 5)


def test_an_unreachable_service_is_reported(service, tmp_path):
    with chromium(tmp_path / "own") as driver:
        page = Page(driver, service)
        page.open()
        driver.execute_cdp_cmd("Network.enable", {})
        lost = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        driver.execute_cdp_cmd("Network.emulateNetworkConditions", lost)
        page.at("query").send_keys("ba be")
        _until(lambda: page.at("status").text == "the service cannot be reached", 5)
        driver.execute_cdp_cmd("Network.emulateNetworkConditions", {**lost, "offline": False})
        page.at("query").send_keys(" bi")
        page.shown("ba be bi")
        assert "of 302 passages" in page.at("status").text
