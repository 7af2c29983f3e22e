// The list of chats that this browser keeps.

import { button, byId, element, saveFile } from "./dom.js";
import { closeCovering } from "./panels.js";
import { deleteAllChats, deleteChat, listChats, titleOf } from "./store.js";

/** `onOpen` takes a chat, and `onDelete` the id of one that is gone, or null for all. */
export class ChatList {
  #openId = null;

  constructor({ onOpen, onDelete }) {
    this.onOpen = onOpen;
    this.onDelete = onDelete;
    byId("export-chats").addEventListener("click", () => exportChats(listChats(), "jinfer-chats.json"));
    byId("delete-chats").addEventListener("click", () => {
      if (!confirm("Delete all chats of this browser?")) return;
      deleteAllChats();
      onDelete(null);
    });
  }

  /** Shows what there is, with one as the one that is open. */
  show(openId) {
    this.#openId = openId;
    const chats = listChats();
    byId("chat-list").replaceChildren(...chats.map((chat) => this.#item(chat)));
    byId("export-chats").disabled = byId("delete-chats").disabled = chats.length === 0;
  }

  #item(chat) {
    const title = titleOf(chat);
    const open = button(title, () => {
      this.onOpen(listChats().find((kept) => kept.id === chat.id) ?? chat);
      closeCovering();
    }, { className: "chat-title" });
    if (chat.id === this.#openId) open.setAttribute("aria-current", "true");
    const save = button("↓", () => exportChats([chat], `jinfer-chat-${chat.id}.json`), { label: `Export “${title}”` });
    const remove = button("✕", () => this.#delete(chat, title), { label: `Delete “${title}”` });
    return element("li", {}, [open, save, remove]);
  }

  #delete(chat, title) {
    if (!confirm(`Delete “${title}”?`)) return;
    deleteChat(chat.id);
    this.onDelete(chat.id);
  }
}

const exportChats = (chats, name) => saveFile(name, JSON.stringify({ format: "jinfer-chats", chats }, null, 2));
