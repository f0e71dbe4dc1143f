// Input of files: the button, the clipboard, and dropping anywhere on the page.

import { byId } from "./dom.js";

/** @param {function} add called with files; messages: reports folders; say: reports a clipboard without files. */
export function acceptFiles(add, messages, say) {
  const input = byId("files");
  byId("choose").addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    add(input.files);
    // So that the same file can be chosen again.
    input.value = "";
  });

  addEventListener("paste", (event) => {
    if (event.target instanceof HTMLInputElement) return;
    const { files } = event.clipboardData;
    if (files.length) add(files);
    else say("There is no picture in the clipboard.");
  });

  const hint = byId("drop-hint");
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    hint.hidden = false;
  });
  addEventListener("dragleave", (event) => {
    // Left the window, not just an element of it.
    if (event.relatedTarget === null) hint.hidden = true;
  });
  addEventListener("drop", (event) => {
    hint.hidden = true;
    if (!hasFiles(event)) return;
    event.preventDefault();
    const items = [...event.dataTransfer.items].filter((item) => item.kind === "file");
    const folder = (item) => (item.webkitGetAsEntry()?.isDirectory ? item.webkitGetAsEntry() : null);
    for (const { name } of items.map(folder).filter(Boolean)) messages.failed("folder", "", { name });
    add(items.filter((item) => !folder(item)).map((item) => item.getAsFile()));
  });
}
