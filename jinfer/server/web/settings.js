// The form of sampling settings. An empty field is not sent, so that the server's default holds.

import { byId } from "./dom.js";

const KEPT = "jinfer.settings";
const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "max_tokens", "seed"];

/** Fills the form with what was kept, and keeps it as it changes. */
export function startSettings() {
  const form = byId("settings");
  const kept = readKept();
  for (const field of fieldsOf(form)) {
    field.placeholder ||= field.name === "system" || field.name === "stop" ? "none" : "default";
    if (typeof kept[field.name] === "string") field.value = kept[field.name];
  }
  form.addEventListener("input", () => keep(form));
  form.addEventListener("reset", () => setTimeout(() => keep(form))); // the fields change after the event
  form.addEventListener("submit", (event) => event.preventDefault());
}

/** {system, sampling}: the system prompt, "" for none, and the fields of a request. Throws for a value that is
 * outside its rule. */
export function readSettings() {
  const form = byId("settings");
  const sampling = {};
  for (const name of NUMBERS) {
    const field = form.elements[name];
    if (!field.checkValidity()) {
      throw new Error(`${field.labels[0].textContent.trim()}: ${field.validationMessage}`);
    }
    if (field.value !== "") sampling[name] = field.valueAsNumber;
  }
  const stop = form.elements.stop.value.split("\n").filter((line) => line !== "");
  if (stop.length > 0) sampling.stop = stop.map((line) => line.replaceAll("\\n", "\n"));
  return { system: form.elements.system.value.trim(), sampling };
}

/** Shows the fields that only chats have, or hides them. */
export function showChatFields(isChat) {
  for (const label of byId("settings").querySelectorAll("[data-chat-only]")) label.hidden = !isChat;
}

const fieldsOf = (form) => [...form.elements].filter((field) => field.name);

function keep(form) {
  const values = Object.fromEntries(fieldsOf(form).map((field) => [field.name, field.value]));
  try {
    localStorage.setItem(KEPT, JSON.stringify(values));
  } catch { /* no room: the settings hold until the page is left */ }
}

function readKept() {
  try {
    return JSON.parse(localStorage.getItem(KEPT)) ?? {};
  } catch {
    return {};
  }
}
