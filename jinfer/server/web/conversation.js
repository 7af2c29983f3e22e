// The chat that is open: its messages on the page, and the one answer that may stream into it.

import { answerRequest, emptyAnswer, streamAnswer } from "./answer.js";
import { MessageView } from "./message_view.js";
import { readSettings } from "./settings.js";

const NEAR_END_PX = 60;

/** `hooks`: onChange after the chat changed, onState when an answer begins or ends, onError(error), onEdit. */
export class Conversation {
  #views = [];
  #abort = null;
  #frame = null;

  constructor(container, model, hooks) {
    this.container = container;
    this.model = model;
    this.hooks = hooks;
    this.isChat = model.has_chat_template !== false;
    this.chat = null;
  }

  get isStreaming() {
    return this.#abort !== null;
  }

  get messages() {
    return this.chat.messages;
  }

  /** Shows a chat; an answer that streams into another is stopped. */
  open(chat) {
    this.stop();
    this.chat = chat;
    this.#views = [];
    this.container.replaceChildren();
    for (const message of chat.messages) this.#show(message);
    this.#showActions();
    this.#scrollToEnd();
  }

  /** Adds what the user wrote, and answers it. Without a text, the text so far is continued. */
  async send(text) {
    const settings = readSettings(); // throws before anything changed
    if (text !== "") this.#push({ role: "user", content: text });
    await this.#answer(settings);
  }

  /** Replaces the last message of the user, with what came after. */
  async resend(text) {
    const settings = readSettings();
    this.#dropFrom(this.messages.findLastIndex((message) => message.role === "user"));
    this.#push({ role: "user", content: text });
    await this.#answer(settings);
  }

  /** Answers again what the last answer was to. */
  async regenerate() {
    if (this.isStreaming) return;
    const settings = readSettings();
    if (this.messages.at(-1)?.role === "assistant") this.#dropFrom(this.messages.length - 1);
    await this.#answer(settings);
  }

  stop() {
    this.#abort?.abort();
  }

  lastUserText() {
    return this.messages.findLast((message) => message.role === "user")?.content ?? null;
  }

  async #answer({ system, sampling }) {
    const { chat, isChat, model } = this;
    const request = answerRequest({ model, messages: this.messages, isChat, system, sampling });
    const answer = emptyAnswer();
    const view = this.#push(answer);
    const abort = (this.#abort = new AbortController());
    this.hooks.onState();
    view.update({ isStreaming: true });
    try {
      await streamAnswer(answer, request, { signal: abort.signal, onChange: () => this.#redraw(view) });
    } catch (error) {
      if (error.name === "AbortError") answer.finishReason = "stopped";
      else answer.error = errorText(error);
      if (error.name !== "AbortError") this.hooks.onError(error);
    } finally {
      if (this.#abort === abort) this.#abort = null;
      this.#end(view, chat);
    }
  }

  /** The answer is complete, stopped or failed; the chat may not be the one on the page any more. */
  #end(view, chat) {
    if (this.#frame !== null) cancelAnimationFrame(this.#frame);
    this.#frame = null;
    const isNear = this.#isNearEnd();
    view.update({ isStreaming: false });
    this.#showActions();
    if (isNear) this.#scrollToEnd();
    this.hooks.onChange(chat);
    this.hooks.onState();
  }

  /** Shows new text before the next frame: chunks come faster than the screen changes. */
  #redraw(view) {
    this.#frame ??= requestAnimationFrame(() => {
      this.#frame = null;
      const isNear = this.#isNearEnd();
      view.update({ isStreaming: true });
      if (isNear) this.#scrollToEnd();
    });
  }

  #push(message) {
    this.messages.push(message);
    const view = this.#show(message);
    this.#showActions();
    this.#scrollToEnd();
    this.hooks.onChange(this.chat);
    return view;
  }

  #show(message) {
    const actions = { onRegenerate: () => this.hooks.onRegenerate(), onEdit: () => this.hooks.onEdit() };
    const options = { isChat: this.isChat, actions, maxModelLen: this.model.max_model_len };
    const view = new MessageView(message, options);
    this.#views.push(view);
    this.container.append(view.element);
    return view;
  }

  #dropFrom(index) {
    if (index < 0) return;
    this.messages.splice(index);
    for (const view of this.#views.splice(index)) view.element.remove();
  }

  #showActions() {
    const lastUser = this.messages.findLastIndex((message) => message.role === "user");
    this.#views.forEach((view, index) => {
      const isLast = index === lastUser || index === this.messages.length - 1;
      view.showActions({ isLast: isLast && !this.isStreaming });
    });
  }

  #isNearEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.container;
    return scrollHeight - scrollTop - clientHeight < NEAR_END_PX;
  }

  #scrollToEnd() {
    this.container.scrollTop = this.container.scrollHeight;
  }
}

const errorText = (error) =>
  error.retryAfterS ? `${error.message} (The server asks to wait ${error.retryAfterS} s.)` : error.message;
