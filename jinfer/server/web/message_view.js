// A message on the page: its reasoning, its text, its tool calls, what it took, and what can be done with it.

import { button, copyButton, element } from "./dom.js";
import { codeBlock, MarkdownView } from "./markdown.js";

const ENDS = {
  length: "ended at the limit of tokens",
  abort: "ended by the server",
  error: "ended by an error",
  stopped: "stopped",
  tool_calls: "calls tools",
};

/** `actions` has onRegenerate and onEdit. Text that is continued is shown as it is, and messages as Markdown. */
export class MessageView {
  #text;
  #isMarkdown;
  #reasoning = null;
  #calls = element("div", { className: "calls" });
  #error = element("p", { className: "error", attributes: { role: "alert" }, hidden: true });
  #stats = element("span", { className: "stats" });
  #actions = element("span", { className: "actions" });

  constructor(message, { isChat, actions, maxModelLen }) {
    this.message = message;
    this.actions = actions;
    this.maxModelLen = maxModelLen;
    this.isUser = message.role === "user";
    this.#isMarkdown = isChat && !this.isUser;
    this.#text = this.#isMarkdown ? new MarkdownView() : { element: element("div", { className: "plain" }) };
    const foot = element("div", { className: "foot" }, [this.#stats, this.#actions]);
    this.element = element("article", { className: `message ${this.isUser ? "from-user" : "from-model"}` }, [
      element("h2", { className: "speaker", textContent: speaker(message, isChat) }),
      ...[this.#text.element, this.#calls, this.#error, foot],
    ]);
    this.update({ isStreaming: false });
  }

  /** Shows what the message has by now. */
  update({ isStreaming }) {
    this.element.classList.toggle("streaming", isStreaming);
    this.#updateReasoning(isStreaming);
    if (this.#isMarkdown) this.#text.update(this.message.content);
    else this.#text.element.textContent = this.message.content;
    this.#calls.replaceChildren(...(this.message.toolCalls ?? []).filter(Boolean).map(toolCall));
    this.#error.hidden = !this.message.error;
    this.#error.textContent = this.message.error ?? "";
    this.#stats.textContent = statsText(this.message, this.maxModelLen);
    if (isStreaming) this.#actions.replaceChildren();
  }

  /** Offers what can be done: copying, and for the last of a chat more. */
  showActions({ isLast }) {
    const nodes = [copyButton(() => this.message.content, "Copy the message")];
    if (isLast && this.isUser) nodes.push(button("Edit", this.actions.onEdit, { label: "Edit the message" }));
    if (isLast && !this.isUser) {
      nodes.push(button("Regenerate", this.actions.onRegenerate, { label: "Regenerate the answer" }));
    }
    this.#actions.replaceChildren(...nodes);
  }

  #updateReasoning(isStreaming) {
    const { reasoning, reasoningMs } = this.message;
    if (!reasoning) return;
    this.#reasoning ??= this.#addReasoning();
    const { details, summary, text, wasThinking } = this.#reasoning;
    const isThinking = isStreaming && reasoningMs === null;
    text.textContent = reasoning;
    const duration = reasoningMs === null ? "" : ` for ${(reasoningMs / 1000).toFixed(1)} s`;
    summary.textContent = isThinking ? "Thinking…" : `Thought${duration}`;
    if (isThinking !== wasThinking) details.open = isThinking; // else it stays as the reader left it
    this.#reasoning.wasThinking = isThinking;
  }

  #addReasoning() {
    const summary = element("summary");
    const text = element("div", { className: "plain" });
    const details = element("details", { className: "reasoning" }, [summary, text]);
    this.#text.element.before(details);
    return { details, summary, text, wasThinking: false };
  }
}

function speaker(message, isChat) {
  if (message.role === "user") return isChat ? "You" : "Your text";
  return isChat ? "Model" : "Continuation";
}

function toolCall(call) {
  const title = element("p", { className: "call-name" }, ["Calls ", element("code", { textContent: call.name })]);
  return element("div", { className: "call" }, [title, codeBlock(indented(call.arguments), "json")]);
}

/** JSON with indentation; as it is while it is not complete. */
function indented(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function statsText({ stats, finishReason }, maxModelLen) {
  const parts = [];
  if (stats?.tokensPerS) parts.push(`${stats.tokensPerS.toFixed(1)} tokens/s`);
  if (stats?.ttftMs != null) parts.push(`first token after ${duration(stats.ttftMs)}`);
  if (stats?.numTokens) parts.push(`${stats.numTokens} ${stats.numTokens === 1 ? "token" : "tokens"}`);
  if (stats?.numPromptTokens != null) parts.push(promptText(stats, maxModelLen));
  if (finishReason in ENDS) parts.push(ENDS[finishReason]);
  return parts.join(" · ");
}

function promptText({ numPromptTokens, numCachedTokens, numTokens }, maxModelLen) {
  const cached = numCachedTokens ? `, ${numCachedTokens} cached` : "";
  const context = maxModelLen ? `, context ${numPromptTokens + numTokens} of ${maxModelLen}` : "";
  return `prompt ${numPromptTokens}${cached}${context}`;
}

const duration = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);
