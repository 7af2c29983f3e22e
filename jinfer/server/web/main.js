// The page: what its buttons and keys do.

import { fetchModel, hasKey, setKey } from "./api.js";
import { ChatList } from "./chat_list.js";
import { Conversation } from "./conversation.js";
import { byId } from "./dom.js";
import { askForKey } from "./key_dialog.js";
import { startLive } from "./live.js";
import { startPanels } from "./panels.js";
import { showChatFields, startSettings } from "./settings.js";
import { newChat, saveChat } from "./store.js";
import { startTheme } from "./theme.js";

const RETRY_MS = 3000;
const MAX_PROMPT_PX = 240;

class Page {
  #isEditing = false;
  #prompt = byId("prompt");

  constructor(model) {
    const onError = (error) => { if (error.status === 401) changeKey(refusalText()); };
    this.conversation = new Conversation(byId("messages"), model, {
      onChange: (chat) => this.#keep(chat),
      onState: () => this.#showState(),
      onError,
      onEdit: () => this.#edit(),
      onRegenerate: () => this.#run(() => this.conversation.regenerate()),
    });
    this.chats = new ChatList({ onOpen: (chat) => this.open(chat), onDelete: (id) => this.#forget(id) });
    this.#showMode();
    this.#listen();
    this.open(newChat());
  }

  open(chat) {
    this.#endEditing();
    this.conversation.open(chat);
    this.chats.show(chat.id);
    this.#showState();
    this.#prompt.focus();
  }

  #listen() {
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    byId("stop").addEventListener("click", () => this.#stop());
    byId("new-chat").addEventListener("click", () => this.open(newChat()));
    byId("edit-cancel").addEventListener("click", () => this.#endEditing());
    this.#prompt.addEventListener("keydown", (event) => this.#promptKey(event));
    this.#prompt.addEventListener("input", () => this.#fitPrompt());
    document.addEventListener("keydown", (event) => this.#escape(event));
  }

  #promptKey(event) {
    if (event.isComposing) return; // Enter ends a word there
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      this.#submit();
    }
    if (event.key === "ArrowUp" && this.#prompt.value === "" && !this.conversation.isStreaming) {
      event.preventDefault();
      this.#edit();
    }
  }

  #escape(event) {
    if (event.key !== "Escape" || event.defaultPrevented || byId("key-dialog").open) return;
    if (this.conversation.isStreaming) this.#stop();
    else this.#endEditing();
  }

  #submit() {
    const text = this.#prompt.value;
    const { conversation } = this;
    const mayBeEmpty = !conversation.isChat && conversation.messages.length > 0 && !this.#isEditing;
    if (conversation.isStreaming || (text.trim() === "" && !mayBeEmpty)) return;
    const isEditing = this.#isEditing;
    this.#run(async () => {
      const answering = isEditing ? conversation.resend(text) : conversation.send(text);
      this.#endEditing();
      this.#setPrompt("");
      await answering;
    }, () => {
      if (isEditing) this.#edit();
      this.#setPrompt(text);
    });
  }

  /** Runs what starts an answer. What was refused before it began stays in the prompt, with the reason. */
  async #run(start, onRefused = () => {}) {
    this.#notify("");
    try {
      await start();
    } catch (error) {
      onRefused();
      this.#notify(error.message);
    }
  }

  #stop() {
    this.conversation.stop();
    this.#prompt.focus();
  }

  #edit() {
    const text = this.conversation.lastUserText();
    if (text === null) return;
    this.#isEditing = true;
    byId("editing").hidden = false;
    this.#setPrompt(text);
    this.#prompt.focus();
  }

  #endEditing() {
    if (!this.#isEditing) return;
    this.#isEditing = false;
    byId("editing").hidden = true;
    this.#setPrompt("");
    this.#prompt.focus();
  }

  #keep(chat) {
    try {
      saveChat(chat);
    } catch {
      this.#notify("This browser has no more room for chats. Export and delete some; this one is not kept.");
    }
    this.chats.show(this.conversation.chat.id);
  }

  #forget(id) {
    if (id === null || id === this.conversation.chat.id) this.open(newChat());
    else this.chats.show(this.conversation.chat.id);
  }

  #showMode() {
    const { isChat, model } = this.conversation;
    byId("model").textContent = byId("model").title = model.id;
    document.body.classList.toggle("text-mode", !isChat);
    this.#prompt.placeholder = isChat ? "Write a message" : "Write a text for the model to continue";
    byId("prompt-label").textContent = isChat ? "Message" : "Text to continue";
    showChatFields(isChat);
  }

  #showState() {
    const { conversation } = this;
    const wasStreaming = !byId("stop").hidden;
    byId("stop").hidden = !conversation.isStreaming;
    byId("send").hidden = conversation.isStreaming;
    byId("messages").setAttribute("aria-busy", String(conversation.isStreaming)); // read out once it is whole
    byId("send").textContent = conversation.isChat ? "Send" : "Continue";
    if (conversation.isStreaming) byId("announcer").textContent = "The model answers.";
    else if (wasStreaming) byId("announcer").textContent = "The answer has ended.";
  }

  #setPrompt(text) {
    this.#prompt.value = text;
    this.#fitPrompt();
  }

  #fitPrompt() {
    this.#prompt.style.height = "auto";
    this.#prompt.style.height = `${Math.min(this.#prompt.scrollHeight + 2, MAX_PROMPT_PX)}px`;
  }

  #notify(text) {
    byId("notice").textContent = text;
    byId("notice").hidden = text === "";
  }
}

/** Asks for a key and keeps it; false if the user gave none. */
async function changeKey(reason) {
  const key = await askForKey(reason);
  if (key !== null) setKey(key);
  byId("key-open").hidden = false;
  return key !== null;
}

const refusalText = () => (hasKey() ? "The server does not accept this key." : "This server wants a key.");

/** Connects, however often that takes. */
async function connect() {
  for (;;) {
    try {
      return await fetchModel();
    } catch (error) {
      byId("model").textContent = error.message;
      if (error.status === 401 && (await changeKey(refusalText()))) continue;
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}

startTheme();
startPanels();
startSettings();
byId("key-open").hidden = !hasKey();
byId("key-open").addEventListener("click", () => changeKey("The key for this server; empty forgets it."));
startLive();
new Page(await connect());
document.body.dataset.ready = "true";
