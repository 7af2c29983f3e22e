// Chats in localStorage, each under a key of its own so that two tabs do not write over each other.

const PREFIX = "jinfer.chat.";
const TITLE_LENGTH = 60;
const deletedIds = new Set();

/** A chat without messages. It is kept once it has one. */
export const newChat = () => ({ id: newId(), changed: Date.now(), messages: [] });

/** All chats, the newest first. What cannot be read is left out. */
export function listChats() {
  const keys = Object.keys(localStorage).filter((key) => key.startsWith(PREFIX));
  const chats = keys.map((key) => parsed(localStorage.getItem(key))).filter((chat) => chat !== null);
  return chats.sort((a, b) => b.changed - a.changed);
}

/** Keeps a chat. Throws where the browser has no more room. */
export function saveChat(chat) {
  if (deletedIds.has(chat.id)) return;
  chat.changed = Date.now();
  localStorage.setItem(PREFIX + chat.id, JSON.stringify(chat));
}

/** Deletes a chat for good: an answer to it that still ends is not kept. */
export function deleteChat(id) {
  deletedIds.add(id);
  localStorage.removeItem(PREFIX + id);
}

export const deleteAllChats = () => listChats().forEach((chat) => deleteChat(chat.id));

/** The beginning of what the user wrote first. */
export function titleOf(chat) {
  const text = chat.messages[0]?.content.trim().replace(/\s+/g, " ") || "Empty chat";
  return text.length > TITLE_LENGTH ? text.slice(0, TITLE_LENGTH) + "…" : text;
}

function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(8)); // randomUUID needs HTTPS
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function parsed(text) {
  try {
    const chat = JSON.parse(text);
    const isChat = typeof chat.id === "string" && Array.isArray(chat.messages);
    return isChat && chat.messages.every((message) => typeof message.content === "string") ? chat : null;
  } catch {
    return null;
  }
}
