"""The page in a real browser: it loads without errors, sorts, filters, switches top-1, and reads without scripts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from bench.reporting.data import Report, gather
from bench.reporting.page.html import page
from tests.bench.reporting.made_records import cost, kept, record, timed

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="no Chromium with its chromedriver on the path")


READY = "return document.documentElement.dataset.charts === 'ready'"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("page")
    made = [*cost(), *cost(resolution="384"), record("moganet_s", "params", 25_335_675)]
    for model, speed in (("overlock_t", 12.5), ("convnext_b", 7.5), ("convnext_t", 105.0), ("convnext_s", 12.25)):
        made.append(timed(model, "throughput", speed))
        made.append(timed(model, "throughput", speed / 3, resolution="384", batch=1))
    made.append(timed("overlock_t", "top1", 84.19, weights="ab" * 32))
    (folder / "index.html").write_text(page(gather(kept(folder / "results", made))), encoding="utf-8")
    return (folder / "index.html").as_uri()


def browser(scripts: bool = True) -> Any:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    if not scripts:
        options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))


@pytest.fixture(scope="module")
def driver(url: str) -> Iterator[Any]:
    from selenium.webdriver.support.ui import WebDriverWait

    driver = browser()
    driver.get(url)
    WebDriverWait(driver, 60).until(lambda d: d.execute_script(READY))
    yield driver
    driver.quit()


def shown(driver: Any, column: int) -> list[str]:
    script = "return [...document.querySelectorAll('#results tbody tr')].filter(r => !r.hidden)"
    return list(driver.execute_script(f"{script}.map(r => r.cells[{column}].textContent)"))


def heading(driver: Any, text: str) -> tuple[int, Any]:
    buttons = driver.find_elements("css selector", "#results thead th button")
    (found,) = [(i, button) for i, button in enumerate(buttons) if button.text.strip() == text]
    return found


def choose(driver: Any, place: str, value: str) -> None:
    from selenium.webdriver.support.ui import Select

    Select(driver.find_element("css selector", place)).select_by_visible_text(value)


def test_it_loads_without_errors(driver: Any) -> None:
    assert driver.get_log("browser") == []


def test_columns_sort_by_number_and_by_keyboard(driver: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    column, button = heading(driver, "throughput images/s")
    button.send_keys(Keys.ENTER)  # by keyboard
    down = [float(text.split()[0]) for text in shown(driver, column) if text]
    assert down == sorted(down, reverse=True), "the first click puts the fastest on top"
    assert 105.0 in down, "7.5 comes after 105, and 12.2 after 12.5: as numbers, not as texts"
    assert shown(driver, column)[-1] == "", "rows without a figure are last"
    button.send_keys(Keys.ENTER)
    up = [float(text.split()[0]) for text in shown(driver, column) if text]
    assert up == down[::-1]
    assert shown(driver, column)[-1] == ""
    sorts = driver.execute_script("return [...document.querySelectorAll('th[aria-sort]')].map(t => t.ariaSort)")
    assert sorts == ["ascending"]


def test_filters_and_reset(driver: Any) -> None:
    everything = len(shown(driver, 0))
    family, _ = heading(driver, "family")
    choose(driver, f"select[data-filter='{family}']", "OverLoCK")
    assert set(shown(driver, 0)) == {"overlock_t"}
    search = driver.find_element("css selector", "[data-filter=text]")
    search.send_keys("no such model")
    assert shown(driver, 0) == []
    assert driver.find_element("id", "shown").text == f"0 of {everything} rows"
    driver.find_element("id", "reset").click()
    assert len(shown(driver, 0)) == everything


def test_statements_filter(driver: Any) -> None:
    choose(driver, "#claim-verdict", "REPRODUCED")
    verdicts = driver.execute_script(
        "return [...document.querySelectorAll('.claim')].filter(c => !c.hidden).map(c => c.dataset.verdict)"
    )
    assert set(verdicts) == {"REPRODUCED"}
    choose(driver, "#claim-verdict", "all")


def test_top1_switches_between_published_and_measured(driver: Any) -> None:
    count = "return document.querySelectorAll('[data-chart=\"accuracy-macs-\"] .mark-symbol.role-mark path').length"
    published = driver.execute_script(count)
    measured = driver.find_element("css selector", "[name=top1][value=measured]")
    assert measured.is_enabled()
    measured.click()
    assert driver.execute_async_script(f"setTimeout(() => arguments[0]((() => {{ {count} }})()), 500)") == 1 < published
    driver.find_element("css selector", "[name=top1][value=published]").click()


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_is_wider_than_the_window(driver: Any, width: int) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def emulate(driver: Any, width: int, height: int = 800) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


OVERLAPS = """
const inside = (svg) => [...svg.querySelectorAll('text')].filter(
  t => t.textContent && t.getAttribute('opacity') !== '0' && t.getBoundingClientRect().width);
const covered = [];
for (const chart of document.querySelectorAll('[data-chart]')) {
  const texts = inside(chart.querySelector('svg')).map(t => [t.textContent, t.getBoundingClientRect()]);
  texts.forEach(([one, a], i) => texts.slice(i + 1).forEach(([other, b]) => {
    const width = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const height = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (width > 1 && height > 3) covered.push(`${chart.dataset.chart}: ${one} and ${other}`);
  }));
}
return covered;
"""


@pytest.fixture(scope="module")
def whole(driver: Any, committed: Report, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The page of the committed records."""
    from selenium.webdriver.support.ui import WebDriverWait

    path = tmp_path_factory.mktemp("whole") / "index.html"
    path.write_text(page(committed), encoding="utf-8")
    before = driver.current_url
    driver.get(path.as_uri())
    WebDriverWait(driver, 60).until(
        lambda d: d.execute_script("return document.documentElement.dataset.charts === 'ready'")
    )
    yield driver
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    driver.get(before)


@pytest.mark.slow
def test_no_text_of_a_chart_covers_another(whole: Any) -> None:
    emulate(whole, 1280)
    assert whole.execute_script(OVERLAPS) == []


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height"), [(400, 800), (1280, 720), (1920, 1080)])
def test_under_eight_screens_before_the_appendix(whole: Any, width: int, height: int) -> None:
    emulate(whole, width, height)
    top = "return document.getElementById('appendix').getBoundingClientRect().top + scrollY"
    assert whole.execute_script(top) / height < 8
    assert whole.execute_script("return document.documentElement.scrollWidth") <= width


@pytest.mark.slow
def test_what_is_looked_for_first_is_seen_without_scrolling(whole: Any) -> None:
    emulate(whole, 1280, 720)
    script = """return [...document.querySelectorAll('#results thead th')].filter(h =>
      h.getBoundingClientRect().right <= h.closest('.scroll').getBoundingClientRect().right).map(h => h.textContent)"""
    seen = " ".join(whole.execute_script(script))
    assert all(name in seen for name in ("model", "throughput ratio", "memory", "top-1"))


@pytest.mark.slow
def test_the_first_column_stays_on_a_phone_and_figures_fit(whole: Any) -> None:
    emulate(whole, 400)
    left = """const scroll = document.querySelector('#table .scroll'); scroll.scrollLeft = 300;
      const cell = document.querySelector('#results tbody th');
      return cell.getBoundingClientRect().left - scroll.getBoundingClientRect().left"""
    assert 0 <= whole.execute_script(left) <= 2
    widest = (
        "return Math.max(...[...document.querySelectorAll('.chart svg')].map(s => s.getBoundingClientRect().right))"
    )
    assert whole.execute_script(widest) <= 400
    least = """return Math.min(...[...document.querySelectorAll('.chart text')].map(
      t => parseFloat(t.getAttribute('font-size')) * t.ownerSVGElement.getScreenCTM().a))"""
    assert whole.execute_script(least) >= 8, "labels are readable"


@pytest.mark.slow
def test_it_prints_on_a4_without_cut_columns(whole: Any) -> None:
    emulate(whole, 703, 1030)  # A4 less its margins, at 96 dots an inch
    whole.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    widest = """return Math.max(...[...document.querySelectorAll('table, svg, figure')].map(
      e => e.getBoundingClientRect().right))"""
    assert whole.execute_script(widest) <= 704
    assert whole.execute_script("return getComputedStyle(document.querySelector('.scroll')).overflow") == "visible"
    assert not whole.find_element("id", "reset").is_displayed()
    whole.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


CONTRAST = """
const linear = (v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
const light = (text) => {
  const [r, g, b] = text.match(/[\\d.]+/g).map((v) => linear(v / 255));
  return .2126 * r + .7152 * g + .0722 * b;
};
const paper = light(getComputedStyle(document.body).backgroundColor);
const seen = [...document.querySelectorAll('body, a, .verdict, figcaption, td.published, .chart text')];
const contrasts = seen.map((element) => {
  const style = getComputedStyle(element);
  const ink = light(element.tagName === 'text' ? style.fill : style.color);
  return (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05);
});
return [paper, Math.min(...contrasts)];
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_light_and_dark(driver: Any, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    paper, contrast = driver.execute_script(CONTRAST)
    assert (paper > 0.5) == (scheme == "light")
    assert contrast >= 4.5, "the contrast that WCAG asks of text (AA)"


def test_without_scripts_tables_charts_and_statements_read(url: str) -> None:
    driver = browser(scripts=False)
    try:
        driver.get(url)
        assert "overlock_t" in driver.find_element("id", "results").text
        assert driver.find_element("css selector", "[data-chart='accuracy-macs-'] svg").is_displayed()
        assert not driver.find_element("id", "reset").is_displayed(), "what needs scripts is not shown"
        if not driver.find_element("css selector", ".claim details").get_attribute("open"):
            driver.find_element("css selector", ".claim summary").click()
        assert "Rests on" in driver.find_element("css selector", ".claim dl").text
    finally:
        driver.quit()
