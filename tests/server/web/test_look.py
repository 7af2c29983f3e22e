"""Themes, narrow windows, keys and screen readers, and the live figures."""

import re

import pytest
from selenium.webdriver.common.keys import Keys

from tests.server.web.mock_server import METRICS, ends, says

ANSWER = ".message:last-child"
COLOURS = [
    ("text", "page"),
    ("text", "surface"),
    ("muted", "page"),
    ("muted", "surface"),
    ("muted", "raised"),
]
COLOURS += [("accent", "page"), ("on-accent", "accent"), ("danger", "page"), ("danger", "danger-surface")]
WIDE_THINGS = (
    "x" * 300 + "\n\n```\n" + "y" * 300 + "\n```\n\n|" + "a|" * 30 + "\n|" + "-|" * 30 + "\n|" + "b|" * 30
)


def background(browser):
    return browser.driver.execute_script("return getComputedStyle(document.body).backgroundColor")


def test_the_theme_is_the_systems_until_the_user_chooses(browser, mock):
    browser.open_ready(mock.url, dark=True)
    dark = background(browser)
    browser.click("#theme")
    assert browser.text("#theme") == "Theme: light"
    light = background(browser)
    assert light == "rgb(255, 255, 255)" != dark
    browser.driver.refresh()
    browser.wait_ready()
    assert background(browser) == light
    browser.click("#theme")
    browser.click("#theme")
    assert browser.text("#theme") == "Theme: auto"
    assert background(browser) == dark


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_has_the_contrast_that_wcag_asks_for(browser, mock, dark):
    browser.open(mock.url, dark=dark)
    for front, back in COLOURS:
        assert contrast(colour(browser, front), colour(browser, back)) >= 4.5, (front, back)


def colour(browser, name):
    script = (
        "document.body.style.color = `var(--${arguments[0]})`; return getComputedStyle(document.body).color"
    )
    return [int(part) / 255 for part in re.findall(r"\d+", browser.driver.execute_script(script, name))]


def contrast(first, second):
    """WCAG 2's ratio of the relative luminances."""
    darker, lighter = sorted(luminance(each) for each in (first, second))
    return (lighter + 0.05) / (darker + 0.05)


def luminance(rgb):
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in rgb]
    return sum(part * weight for part, weight in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))


@pytest.mark.parametrize("width", [360, 800, 1280])
def test_no_window_needs_to_be_scrolled_sideways(browser, mock, width):
    mock.model["id"] = "a-very/long-name-of-a-model-" * 5
    mock.answers = [[says(WIDE_THINGS), *ends()]]
    browser.open_ready(mock.url, width=width)
    browser.type("z" * 300, Keys.ENTER)
    browser.wait_text(ANSWER, "3 tokens")
    sizes = "return [document.documentElement.scrollWidth, document.querySelector('#messages').scrollWidth - "
    sizes += "document.querySelector('#messages').clientWidth]"
    assert browser.driver.execute_script(sizes) == [width, 0]
    right = browser.driver.execute_script(
        "return document.querySelector('#send').getBoundingClientRect().right"
    )
    assert right <= width


def test_sides_cover_a_narrow_window_until_escape(browser, mock):
    browser.open_ready(mock.url, width=360)
    assert not browser.element("#panel").is_displayed()
    browser.click("#chats-toggle")
    browser.click("#panel-toggle")
    assert not browser.element("#chats").is_displayed()
    assert browser.element("#panel-toggle").get_attribute("aria-expanded") == "true"
    browser.click("[name=temperature]")
    browser.type(Keys.ESCAPE)
    assert not browser.element("#panel").is_displayed()
    assert browser.focused_id() == "panel-toggle"


def test_everything_that_takes_the_focus_has_a_name(browser, mock):
    mock.answers = [[says("```py\n1\n```\n\n|a|b|\n|-|-|\n|1|2|\n\n[l](https://example.com)"), *ends()]]
    browser.open_ready(mock.url)
    browser.type("Hello", Keys.ENTER)
    browser.wait_text(ANSWER, "3 tokens")
    controls = browser.elements("button, input, textarea, summary, a, [tabindex]")
    named = [
        (node.accessible_name, node.get_attribute("outerHTML")) for node in controls if node.is_displayed()
    ]
    assert len(named) > 20
    assert [html for name, html in named if not name] == []


def test_tab_reaches_the_whole_page_and_shows_where_it_is(browser, mock):
    browser.open_ready(mock.url)
    browser.driver.execute_script("document.querySelector('.skip').focus()")
    seen = ["skip"]
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    for _ in range(30):
        browser.type(Keys.TAB)
        if browser.driver.execute_script("return document.activeElement === document.body"):
            break
        assert browser.driver.execute_script(outline) != "none"
        seen.append(
            browser.driver.execute_script(
                "const e = document.activeElement; return e.id || e.name || e.className"
            )
        )
    expected = ["skip", "chats-toggle", "theme", "panel-toggle", "new-chat", "messages", "prompt", "send"]
    assert [name for name in seen if name in expected] == expected
    assert {"system", "temperature", "stop"} <= set(seen)


def test_live_figures_follow_the_metrics(browser, mock):
    browser.open_ready(mock.url)
    browser.wait_text("[data-chart=running]", "3")
    browser.wait_text("[data-chart=waiting]", "2")
    browser.wait_text("[data-chart=cacheUse]", "25 %")
    assert "—" in browser.text("[data-chart=hitRate]")
    later = METRICS.replace("1000.0", "9000.0").replace("} 100.0", "} 300.0").replace("} 10.0", "} 160.0")
    mock.metrics = later.replace("} 3.0", "} 17.0")
    browser.wait_text("[data-chart=running]", "17")
    browser.wait_text("[data-chart=hitRate]", "75 %")
    line = "return document.querySelector('.chart-line').getAttribute('d')"
    browser.wait(lambda: browser.driver.execute_script(line).startswith("M"))


def test_rates_come_from_two_readings(browser, mock):
    browser.open(mock.url)
    rates = """(() => {
      const history = new m.MetricsHistory(10);
      history.add(m.parseMetrics(a[0]), 1000);
      history.add(m.parseMetrics(a[1]), 3000);
      history.add(m.parseMetrics(a[2]), 4000);
      return history.series().map((figures) => figures.tokensPerS);
    })()"""
    name = "jinfer:generation_tokens_total"
    texts = [f'{name}{{a="1 }}"}} 100\n{name}{{a="2"}} 10 123', f'{name}{{a="1"}} 300.0', f"{name} 5e1"]
    # 110 to 300 in 2 s; then the engine begins again and has 50 after 1 s
    assert browser.call("metrics.js", rates, *texts) == [None, 95, 50]


def test_no_figures_are_asked_for_that_nobody_sees(browser, mock):
    browser.open_ready(mock.url, width=360)
    asked = "return performance.getEntriesByType('resource').filter(e => e.name.endsWith('/metrics')).length"
    assert browser.driver.execute_script(asked) == 0
    browser.click("#panel-toggle")
    browser.wait(lambda: browser.driver.execute_script(asked) > 0)
