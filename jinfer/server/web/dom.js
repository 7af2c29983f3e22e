// Elements from plain values. Text becomes text nodes and nothing is ever parsed as HTML.

/** The element with an id, which index.html has. */
export const byId = (id) => document.getElementById(id);

/** A new element. `properties` are DOM properties, besides `attributes`, an object; `children` nodes or texts. */
export function element(tag, properties = {}, children = []) {
  const { attributes = {}, ...rest } = properties;
  const node = Object.assign(document.createElement(tag), rest);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** A button that runs `onClick`. `label` is what a screen reader says, if more than the text. */
export function button(text, onClick, { label = null, className = "" } = {}) {
  const attributes = label === null ? {} : { "aria-label": label };
  const node = element("button", { type: "button", className, textContent: text, attributes });
  node.addEventListener("click", onClick);
  return node;
}

/** A button that copies what `read` gives, and says for a moment whether that worked. */
export function copyButton(read, label) {
  const node = button("Copy", async () => {
    node.textContent = (await copy(read())) ? "Copied" : "Not copied";
    setTimeout(() => { node.textContent = "Copy"; }, 1500);
  }, { label });
  return node;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text); // pages over plain HTTP from another host have no clipboard
  }
}

function copyBySelection(text) {
  const active = document.activeElement;
  const field = element("textarea", { value: text, className: "hidden-label" });
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  active?.focus();
  return done;
}

/** Gives the browser a file to save. */
export function saveFile(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
