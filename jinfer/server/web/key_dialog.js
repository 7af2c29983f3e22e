// Asks for the server's key.

import { byId } from "./dom.js";

let asking = null;

/** The key that the user gave, or null if none. A second call while the dialog is open waits for the same. */
export function askForKey(reason) {
  asking ??= ask(reason).finally(() => { asking = null; });
  return asking;
}

function ask(reason) {
  const dialog = byId("key-dialog");
  byId("key-reason").textContent = reason;
  byId("key").value = "";
  byId("key-cancel").onclick = () => dialog.close("");
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      resolve(dialog.returnValue === "use" ? byId("key").value.trim() : null);
      byId("key").value = "";
    }, { once: true });
  });
}
