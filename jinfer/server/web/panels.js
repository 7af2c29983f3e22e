// The two sides of the page, which cover it where the window is narrow.

import { byId } from "./dom.js";

const WIDE = matchMedia("(min-width: 1100px)");
const SIDES = ["chats", "panel"];

/** Opens the sides where there is room, and lets their buttons and Escape open and close them. */
export function startPanels() {
  for (const side of SIDES) {
    show(side, WIDE.matches);
    toggleOf(side).addEventListener("click", () => toggle(side));
  }
  WIDE.addEventListener("change", () => SIDES.forEach((side) => show(side, WIDE.matches)));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && closeCovering()) event.preventDefault(); // and stop no answer
  });
}

/** Closes the side that covers the page; false if none does. */
export function closeCovering() {
  if (WIDE.matches) return false;
  let wasOpen = false;
  for (const side of SIDES) {
    if (byId(side).hidden) continue;
    const hadFocus = byId(side).contains(document.activeElement);
    show(side, false);
    wasOpen = true;
    if (hadFocus) toggleOf(side).focus();
  }
  return wasOpen;
}

function toggle(side) {
  const isOpen = byId(side).hidden;
  if (isOpen) closeCovering();
  show(side, isOpen);
}

function show(side, isOpen) {
  byId(side).hidden = !isOpen;
  toggleOf(side).setAttribute("aria-expanded", String(isOpen));
}

const toggleOf = (side) => byId(`${side}-toggle`);
