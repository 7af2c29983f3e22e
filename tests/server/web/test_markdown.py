"""Markdown to elements: what it shows, and that no text of a model becomes more than that."""

import itertools
import random

import pytest

from tests.server.web.mock_server import running_mock

TEXT_AT_ONCE = "(() => { const v = new m.MarkdownView(); v.update(a[0]); return v.element.innerHTML; })()"
TEXT_BY_PIECES = """(() => {
  const v = new m.MarkdownView();
  for (let end = 0; end <= a[0].length; end += 3) v.update(a[0].slice(0, end));
  v.update(a[0]);
  return v.element.innerHTML;
})()"""
WHAT_IS_IN_IT = """(() => {
  const v = new m.MarkdownView();
  v.update(a[0]);
  document.body.append(v.element);
  const nodes = [...v.element.querySelectorAll('*')];
  return {
    tags: [...new Set(nodes.map((n) => n.localName))],
    attributes: [...new Set(nodes.flatMap((n) => n.getAttributeNames()))],
    links: nodes.flatMap((n) => n.href ? [n.href] : []),
    rels: nodes.flatMap((n) => n.localName === 'a' ? [n.rel] : []),
    text: v.element.textContent,
    ran: window.ran ?? null,
  };
})()"""
TAGS = {
    "p",
    "br",
    "a",
    "strong",
    "em",
    "del",
    "code",
    "pre",
    "div",
    "span",
    "button",
    "table",
    "thead",
    "tbody",
}
TAGS |= {"tr", "th", "td", "ul", "ol", "li", "blockquote", "hr", "h3", "h4", "h5", "h6"}
ATTRIBUTES = {"class", "href", "target", "rel", "tabindex", "aria-label", "type", "start", "role"}


@pytest.fixture(scope="module")
def page(shared_browser, module_mock):
    shared_browser.open(module_mock.url)
    return shared_browser


@pytest.fixture(scope="module")
def module_mock():
    with running_mock() as mock:
        yield mock


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("**a** *b* ~~c~~", "<p><strong>a</strong> <em>b</em> <del>c</del></p>"),
        ("__a__ _b_", "<p><strong>a</strong> <em>b</em></p>"),
        ("**a *b* c**", "<p><strong>a <em>b</em> c</strong></p>"),
        ("*a **b** c*", "<p><em>a <strong>b</strong> c</em></p>"),
        ("snake_case_name 2 * 3 * 4", "<p>snake_case_name 2 * 3 * 4</p>"),
        ("`a * b` ``c ` d``", "<p><code>a * b</code> <code>c ` d</code></p>"),
        (r"\*not\* \`code\`", "<p>*not* `code`</p>"),
        ("one\ntwo\n\nthree", "<p>one<br>two</p><p>three</p>"),
        ("# A\n###### B", "<h3>A</h3><h6>B</h6>"),
        ("> a\n> b\n\nc", "<blockquote><p>a<br>b</p></blockquote><p>c</p>"),
        ("- a\n- b\n  - c\n- d", "<ul><li>a</li><li>b<ul><li>c</li></ul></li><li>d</li></ul>"),
        ("3. a\n4. b", '<ol start="3"><li>a</li><li>b</li></ol>'),
        ("1. a\n\n   b\n2. c", '<ol start="1"><li><p>a</p><p>b</p></li><li><p>c</p></li></ol>'),
        ("- a\n\n- b", "<ul><li><p>a</p></li><li><p>b</p></li></ul>"),
        ("a\n\n---\n\nb", "<p>a</p><hr><p>b</p>"),
        ("**open and _open", "<p>**open and _open</p>"),
    ],
)  # fmt: skip
def test_markdown(page, text, html):
    assert page.call("markdown.js", TEXT_AT_ONCE, text) == html


def test_code_keeps_every_character_and_ends_where_its_fence_does(page):
    code = "def f(x):\n\n    return x < 1 & 2  # **not bold**\n~~~"
    inside = page.call("markdown.js", WHAT_IS_IN_IT, f"````python\n{code}\n```\n````\nafter")
    assert inside["text"] == f"pythonCopy{code}\n```after"
    unfinished = page.call("markdown.js", WHAT_IS_IN_IT, f"```\n{code}")
    assert unfinished["text"] == f"Copy{code}"


def test_a_table_has_its_cells_and_their_sides(page):
    html = page.call("markdown.js", TEXT_AT_ONCE, "|a|b|\n|:-:|--:|\n|1|x \\| **y**|\n|only|")
    assert '<th class="align-center">a</th><th class="align-right">b</th>' in html
    assert '<td class="align-right">x | <strong>y</strong></td>' in html
    assert html.count("<td") == 3


@pytest.mark.parametrize(
    ("text", "links"),
    [
        ("[a](https://example.com/b_(c)?d=1)", ["https://example.com/b_(c)?d=1"]),
        ("see http://one.example/a_b, <https://two.example>.", ["http://one.example/a_b", "https://two.example/"]),
        ("(https://example.com/a)", ["https://example.com/a"]),
        ("![image](https://example.com/track.png)", ["https://example.com/track.png"]),
        ("[a](javascript:alert(1)) [b](JaVaScRiPt:alert(1)) [c](data:text/html,x)", []),
        ("[a](//example.com) [b](/x) [c](file:///etc/passwd)", []),
        ("[a](java\tscript:alert(1)) [b](\x01javascript:alert(1)) [c](vbscript:x)", []),
        ("[a](https://) [b](https://[) <javascript:alert(1)> <https:x>", []),
        ('[a](https://example.com/"onmouseover="ran=1)', ["https://example.com/%22onmouseover=%22ran=1"]),
        ("[https://one.example](https://two.example)", ["https://two.example/"]),
    ],
)  # fmt: skip
def test_links_go_to_web_pages_alone(page, text, links):
    inside = page.call("markdown.js", WHAT_IS_IN_IT, text)
    assert inside["links"] == links
    assert set(inside["rels"]) <= {"noopener noreferrer nofollow"}


ATTACKS = [
    "<img src=x onerror='window.ran=1'>",
    "<script>window.ran=1</script>",
    "<svg onload=window.ran=1><a xlink:href='javascript:window.ran=1'>x</a></svg>",
    "<iframe srcdoc='<script>parent.ran=1</script>'></iframe>",
    "**<img src=x onerror=window.ran=1>**",
    "`<img src=x onerror=window.ran=1>`",
    "[<img src=x onerror=window.ran=1>](https://example.com/<script>)",
    "```<img/src/onerror=window.ran=1>\n</code></pre><script>window.ran=1</script>\n```",
    "|<img src=x onerror=window.ran=1>|b|\n|-|-|\n|<script>window.ran=1</script>|c|",
    "# <img src=x onerror=window.ran=1>\n> <script>window.ran=1</script>\n- <style>*{display:none}</style>",
    "&lt;img src=x onerror=window.ran=1&gt; &#60;script&#62;",
    "<a href='javascript:window.ran=1'>x</a> <form action='https://example.com'><input name=key>",
    "<math><mtext><table><mglyph><style><img src=x onerror=window.ran=1>",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_text_becomes_html(page, attack):
    inside = page.call("markdown.js", WHAT_IS_IN_IT, attack)
    assert set(inside["tags"]) <= TAGS
    assert set(inside["attributes"]) <= ATTRIBUTES
    assert inside["ran"] is None


def test_no_mix_of_everything_becomes_html_and_pieces_show_what_the_whole_does(page):
    parts = [
        "**",
        "*",
        "_",
        "`",
        "```",
        "\n",
        "\n\n",
        "- ",
        "1. ",
        "> ",
        "| ",
        "|-|",
        "# ",
        "[a](",
        ")",
        "https://a.b",
        "<b>",
    ]
    parts += ["javascript:", "word ", "    ", "~~", "\\", "![", "---", "é", "😀", *ATTACKS]
    random_ = random.Random(0)
    for _ in range(40):
        text = "".join(random_.choices(parts, k=40))
        inside = page.call("markdown.js", WHAT_IS_IN_IT, text)
        assert set(inside["tags"]) <= TAGS, text
        assert set(inside["attributes"]) <= ATTRIBUTES, text
        assert all(link.startswith(("http://", "https://")) for link in inside["links"]), text
        whole = page.call("markdown.js", TEXT_AT_ONCE, text)
        assert page.call("markdown.js", TEXT_BY_PIECES, text) == whole, text


UNITS = [
    "*",
    "**a ",
    "_a ",
    "`",
    "[",
    "[a](",
    "![",
    "> ",
    "- ",
    "|-",
    "#",
    "\\",
    "<",
    "~~a",
    "h",
    "https://",
    "  - a\n",
]
UNITS += ["```", " ", "\t", "| a ", "*a **b ", "1. ", "(", "[](https://a"]


def test_no_text_takes_the_page_much_time(page):
    """Every unit alone and with another, 50,000 characters each: quadratic time would be minutes."""
    spent = "(() => { const start = performance.now(); new m.MarkdownView().update(a[0].repeat(a[1]));"
    spent += "return performance.now() - start; })()"
    texts = [
        *UNITS,
        *(
            first + second
            for first, second in itertools.islice(itertools.permutations(UNITS, 2), 0, None, 17)
        ),
    ]
    for text in texts:
        assert page.call("markdown.js", spent, text, 50_000 // len(text)) < 20_000, text
