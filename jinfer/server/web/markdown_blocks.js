// The block half of Markdown: lines to a list of plain objects, each with the `source` it came from.

// Rules take linear time, or look at bounded lines alone: a model may write anything.
const FENCE = /^ {0,3}(`{3,}|~{3,})([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})\s(.*)$/;
const RULE = /^ {0,3}(?:(?:\*\s*){3,}|(?:-\s*){3,}|(?:_\s*){3,})$/;
const QUOTE = /^ {0,3}>\s?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])( +|$)(.*)$/;
const DIVIDER = /^ {0,3}\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$/;
const MAX_DIVIDER_LENGTH = 500;
const MAX_DEPTH = 10;

/** The blocks of a text: {kind: code | heading | rule | quote | list | table | paragraph, source, …}. */
export const parseBlocks = (text) => parseLines(text.replaceAll("\r\n", "\n").split("\n"), 0);

function parseLines(lines, depth) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (lines[at].trim() === "") {
      at++;
      continue;
    }
    const [block, end] = blockAt(lines, at, depth);
    blocks.push({ ...block, source: lines.slice(at, end).join("\n") });
    at = end;
  }
  return blocks;
}

/** The block that begins at a line, and the line after it. */
function blockAt(lines, at, depth) {
  const line = lines[at];
  if (FENCE.test(line)) return codeAt(lines, at);
  if (HEADING.test(line)) {
    const [, marks, text] = HEADING.exec(line);
    return [{ kind: "heading", level: marks.length, text: text.trim().replace(/ #{1,6}$/, "") }, at + 1];
  }
  if (RULE.test(line)) return [{ kind: "rule" }, at + 1];
  if (isTableAt(lines, at)) return tableAt(lines, at);
  if (depth < MAX_DEPTH && QUOTE.test(line)) return quoteAt(lines, at, depth);
  if (depth < MAX_DEPTH && ITEM.test(line)) return listAt(lines, at, depth);
  return paragraphAt(lines, at);
}

function codeAt(lines, at) {
  const [, fence, info] = FENCE.exec(lines[at]);
  const [language] = info.trim().split(/\s/);
  let end = at + 1;
  while (end < lines.length && !isFenceEnd(lines[end], fence)) end++;
  return [{ kind: "code", language, text: lines.slice(at + 1, end).join("\n") }, Math.min(end + 1, lines.length)];
}

function isFenceEnd(line, fence) {
  const text = line.trim();
  return text.length >= fence.length && text === fence[0].repeat(text.length);
}

const isTableAt = (lines, at) =>
  lines[at].includes("|") && isDivider(lines[at + 1] ?? "") &&
  cellsOf(lines[at]).length === cellsOf(lines[at + 1]).length;

const isDivider = (line) => line.includes("-") && line.length <= MAX_DIVIDER_LENGTH && DIVIDER.test(line);

function tableAt(lines, at) {
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|")) end++;
  const head = cellsOf(lines[at]);
  const aligns = cellsOf(lines[at + 1]).map(alignOf);
  const rows = lines.slice(at + 2, end).map((line) => cellsOf(line).slice(0, head.length));
  return [{ kind: "table", head, aligns, rows }, end];
}

const cellsOf = (line) =>
  line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "").split(/(?<!\\)\|/).map((cell) => cell.trim());

function alignOf(divider) {
  if (divider.endsWith(":")) return divider.startsWith(":") ? "center" : "right";
  return "left";
}

function quoteAt(lines, at, depth) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end++;
  const inner = lines.slice(at, end).map((line) => line.replace(QUOTE, ""));
  return [{ kind: "quote", blocks: parseLines(inner, depth + 1) }, end];
}

function listAt(lines, at, depth) {
  const [, , marker] = ITEM.exec(lines[at]);
  const isOrdered = /\d/.test(marker);
  const items = [];
  let isLoose = false;
  let end = at;
  while (end < lines.length) {
    const match = ITEM.exec(lines[end]);
    if (match === null || /\d/.test(match[2]) !== isOrdered || RULE.test(lines[end])) break;
    const [inner, next] = itemAt(lines, end, match);
    items.push(parseLines(inner, depth + 1));
    end = next;
    const item = skipBlank(lines, end);
    if (item > end && item < lines.length && ITEM.test(lines[item])) {
      isLoose = true;
      end = item;
    }
  }
  isLoose ||= items.some((blocks) => blocks.filter((block) => block.kind === "paragraph").length > 1);
  return [{ kind: "list", isOrdered, start: Number.parseInt(marker, 10) || 1, isLoose, items }, end];
}

/** The lines of an item without their indentation, and the line after it. */
function itemAt(lines, at, [, indent, marker, space, first]) {
  const width = indent.length + marker.length + Math.min(Math.max(space.length, 1), 4);
  const nested = new RegExp(`^(?: {${Math.min(width, 2)},}|\\t)`); // models often indent by less than the marker
  const inner = [first];
  let end = at + 1;
  while (end < lines.length) {
    const next = skipBlank(lines, end);
    const isNested = next < lines.length && nested.test(lines[next]);
    if (!isNested && (next > end || startsBlock(lines[end]))) break;
    if (next >= lines.length) break;
    for (; end < next; end++) inner.push("");
    inner.push(dedented(lines[end++], width));
  }
  return [inner, end];
}

function dedented(line, width) {
  const spaces = line.replace(/^\t/, "    ");
  return spaces.slice(Math.min(width, spaces.search(/\S|$/)));
}

function skipBlank(lines, at) {
  let next = at;
  while (next < lines.length && lines[next].trim() === "") next++;
  return next;
}

const startsBlock = (line) => [FENCE, HEADING, RULE, QUOTE, ITEM].some((rule) => rule.test(line));

function paragraphAt(lines, at) {
  let end = at + 1;
  while (end < lines.length && lines[end].trim() !== "" && !startsBlock(lines[end]) && !isTableAt(lines, end)) end++;
  return [{ kind: "paragraph", text: lines.slice(at, end).map((line) => line.trim()).join("\n") }, end];
}
