// Light, dark, or as the system has it.

import { byId } from "./dom.js";

const KEPT = "jinfer.theme";
const NEXT = { auto: "light", light: "dark", dark: "auto" };

/** Applies the theme that was kept, and lets the button change it. */
export function startTheme() {
  const kept = localStorage.getItem(KEPT);
  show(kept in NEXT ? kept : "auto");
  byId("theme").addEventListener("click", () => {
    const next = NEXT[document.documentElement.dataset.theme];
    show(next);
    try {
      localStorage.setItem(KEPT, next);
    } catch { /* no room: it holds until the page is left */ }
  });
}

function show(theme) {
  document.documentElement.dataset.theme = theme;
  byId("theme").textContent = `Theme: ${theme}`;
}
