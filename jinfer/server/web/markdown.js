// Markdown as elements, which grow with a text that streams.

import { copyButton, element } from "./dom.js";
import { parseBlocks } from "./markdown_blocks.js";
import { inlineNodes } from "./markdown_inline.js";

/** Shows a text that becomes longer: only blocks that changed are made again, so a selection in others stays. */
export class MarkdownView {
  #sources = [];

  constructor() {
    this.element = element("div", { className: "markdown" });
  }

  update(text) {
    const blocks = parseBlocks(text);
    let same = 0;
    while (same < blocks.length && blocks[same].source === this.#sources[same]) same++;
    while (this.element.childNodes.length > same) this.element.lastChild.remove();
    this.element.append(...blocks.slice(same).map(blockNode));
    this.#sources = blocks.map((block) => block.source);
  }
}

/** A block of code with its language and a button that copies it. */
export function codeBlock(text, language) {
  const bar = element("div", { className: "code-bar" }, [
    element("span", { textContent: language }),
    copyButton(() => text, "Copy the code"),
  ]);
  const attributes = { tabindex: "0", "aria-label": language ? `Code, ${language}` : "Code" };
  const pre = element("pre", { attributes }, [element("code", { textContent: text })]);
  return element("div", { className: "code" }, [bar, pre]);
}

const NODES = {
  code: (block) => codeBlock(block.text, block.language),
  heading: (block) => element(`h${Math.min(block.level + 2, 6)}`, {}, inlineNodes(block.text)), // below the page's
  rule: () => element("hr"),
  quote: (block) => element("blockquote", {}, block.blocks.map(blockNode)),
  list: listNode,
  table: tableNode,
  paragraph: (block) => element("p", {}, inlineNodes(block.text)),
};

const blockNode = (block) => NODES[block.kind](block);

function listNode(block) {
  const items = block.items.map((blocks) => element("li", {}, blocks.flatMap((inner) => itemNodes(inner, block))));
  return element(block.isOrdered ? "ol" : "ul", block.isOrdered ? { start: block.start } : {}, items);
}

const itemNodes = (inner, list) =>
  inner.kind === "paragraph" && !list.isLoose ? inlineNodes(inner.text) : [blockNode(inner)];

function tableNode(block) {
  const cell = (tag, text, column) =>
    element(tag, { className: `align-${block.aligns[column] ?? "left"}` }, inlineNodes(text));
  const row = (tag, cells) => element("tr", {}, cells.map((text, column) => cell(tag, text, column)));
  const table = element("table", {}, [
    element("thead", {}, [row("th", block.head)]),
    element("tbody", {}, block.rows.map((cells) => row("td", cells))),
  ]);
  const attributes = { tabindex: "0", role: "region", "aria-label": "Table" };
  return element("div", { className: "table", attributes }, [table]);
}
