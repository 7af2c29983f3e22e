// The inline half of Markdown: text to DOM nodes. No HTML is parsed, and what is not understood stays text.

import { element } from "./dom.js";

const MAX_URL_LENGTH = 2000;
const MAX_URL_DEPTH = 3;
const MAX_DEPTH = 8;
const MARKS = [["**", "strong"], ["__", "strong"], ["~~", "del"], ["*", "em"], ["_", "em"]];
const BARE_URL = /https?:\/\/[^\s<>"'`]{1,2000}/y;
const WORD = /[\p{L}\p{N}]/u;
const SPECIAL = "\\`*_~[!<h\n";

/** The nodes of a paragraph's text. */
export const inlineNodes = (text) => new InlineScanner(text, 0, false).nodes();

class InlineScanner {
  #nodes = [];
  #plain = "";
  #missing = new Set(); // delimiters that do not come any more: looking again would take quadratic time

  constructor(text, depth, isInLink) {
    this.text = text;
    this.depth = depth;
    this.isInLink = isInLink;
    this.at = 0;
  }

  nodes() {
    while (this.at < this.text.length) {
      if (!this.#special()) this.#plain += this.text[this.at++];
    }
    this.#flush();
    return this.#nodes;
  }

  /** Takes what begins here, and is true, or takes nothing. */
  #special() {
    const char = this.text[this.at];
    if (!SPECIAL.includes(char)) return false;
    if (char === "\\") return this.#escape();
    if (char === "`") return this.#code();
    if (char === "\n") return this.#add(element("br"), 1);
    if (char === "!" && this.text[this.at + 1] === "[") return this.#link(this.at + 1); // no image is fetched
    if (char === "[") return this.#link(this.at);
    if (char === "<" || char === "h") return this.#bareUrl();
    return this.depth < MAX_DEPTH && this.#emphasis();
  }

  #escape() {
    const next = this.text[this.at + 1];
    if (next === undefined || !"\\`*_~[]()#+-.!<>|{}".includes(next)) return false;
    this.#plain += next;
    this.at += 2;
    return true;
  }

  #code() {
    const fence = /`+/y;
    fence.lastIndex = this.at;
    const ticks = fence.exec(this.text)[0];
    const start = this.at + ticks.length;
    const end = this.#find(ticks, start);
    if (end < 0) return this.#literal(ticks);
    return this.#add(element("code", { textContent: this.text.slice(start, end).trim() }), end + ticks.length - this.at);
  }

  #emphasis() {
    for (const [mark, tag] of MARKS) {
      if (!this.text.startsWith(mark, this.at)) continue;
      const start = this.at + mark.length;
      const isWord = mark[0] === "_" && WORD.test(this.text[this.at - 1] ?? " "); // snake_case stays as it is
      if (isWord || /\s/.test(this.text[start] ?? " ")) return this.#literal(mark);
      const end = this.#closing(mark, start);
      if (end < 0) continue;
      const inner = new InlineScanner(this.text.slice(start, end), this.depth + 1, this.isInLink);
      return this.#add(element(tag, {}, inner.nodes()), end + mark.length - this.at);
    }
    return false;
  }

  #closing(mark, start) {
    let end = this.#find(mark, start + 1);
    while (end >= 0) {
      const isDouble = mark.length === 1 && this.text[end + 1] === mark; // of ** within *
      const isWord = mark[0] === "_" && WORD.test(this.text[end + mark.length] ?? " ");
      if (!isDouble && !isWord && !/\s/.test(this.text[end - 1])) return end;
      end = this.#find(mark, end + (isDouble ? 2 : 1));
    }
    this.#missing.add(mark);
    return -1;
  }

  #link(open) {
    const middle = this.#find("](", open);
    if (middle < 0 || this.isInLink) return false;
    const label = this.text.slice(open + 1, middle);
    const end = endOfUrl(this.text, middle + 2);
    if (label.includes("[") || end === null) return false;
    const url = safeUrl(this.text.slice(middle + 2, end));
    if (url === null) return false;
    const inner = new InlineScanner(label, this.depth + 1, true).nodes();
    return this.#add(anchor(url, inner.length > 0 ? inner : [url]), end + 1 - this.at);
  }

  #bareUrl() {
    const isAngled = this.text[this.at] === "<";
    BARE_URL.lastIndex = this.at + (isAngled ? 1 : 0);
    const match = this.isInLink ? null : BARE_URL.exec(this.text);
    if (match === null) return false;
    const raw = isAngled ? match[0] : match[0].replace(/[.,;:!?*_~)\]]{1,8}$/, "");
    const isClosed = isAngled && this.text[BARE_URL.lastIndex] === ">";
    const url = safeUrl(raw);
    if (url === null || (isAngled && !isClosed)) return false;
    return this.#add(anchor(url, [raw]), raw.length + (isAngled ? 2 : 0));
  }

  #find(what, from) {
    if (this.#missing.has(what)) return -1;
    const place = this.text.indexOf(what, from);
    if (place < 0) this.#missing.add(what);
    return place;
  }

  #literal(text) {
    this.#plain += text;
    this.at += text.length;
    return true;
  }

  #add(node, length) {
    this.#flush();
    this.#nodes.push(node);
    this.at += length;
    return true;
  }

  #flush() {
    if (this.#plain) this.#nodes.push(document.createTextNode(this.#plain));
    this.#plain = "";
  }
}

/** The place of the parenthesis that ends a URL, or null. */
function endOfUrl(text, start) {
  let depth = 0;
  for (let at = start; at < Math.min(text.length, start + MAX_URL_LENGTH); at++) {
    if (/\s/.test(text[at])) return null;
    if (text[at] === "(" && ++depth > MAX_URL_DEPTH) return null;
    if (text[at] === ")" && depth-- === 0) return at;
  }
  return null;
}

/** The URL if it is a whole one of http or https, or null: a link of a model runs no script. */
export function safeUrl(text) {
  if (!/^https?:\/\//i.test(text) || !URL.canParse(text)) return null;
  return new URL(text).href;
}

const anchor = (href, children) =>
  element("a", { href, target: "_blank", rel: "noopener noreferrer nofollow" }, children);
