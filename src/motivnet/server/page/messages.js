// Error messages: one per kind of error, for any number of files.

import { byId, bytes, make, number, plural } from "./dom.js";

const NAMED = 3;

const TEXTS = {
  large: (names, detail) => `${names}: too large for this server (${detail}).`,
  broken: (names) =>
    `${names}: the connection broke while it was sent. It may be too large for this server, or no longer there.`,
  busy: (names) => `${names}: the server is too busy, also after several attempts.`,
  slow: (names) => `${names}: the server took too long.`,
  gone: (names) => `${names}: the server does not answer. Check that it is running and that you are connected.`,
  failed: (names, detail) => `${names}: ${detail}.`,
  video: (names) => `${names}: a video. This page takes photographs only; the command motivnet video takes videos.`,
  folder: (names) => `${names}: a folder. Open it and drop the photographs that are in it.`,
};
const AGAIN = new Set(["broken", "busy", "slow", "gone", "failed"]);

/** Format a server's message: without its full stop, large numbers with separators. */
const readable = (detail) => detail.replace(/\.$/, "").replaceAll(/\d{5,}/g, (digits) => number(Number(digits)));

export class Messages {
  #place = byId("messages");
  #shown = new Map();

  /** Show a message in place of one of the same kind; `retry`, if given, is called by its button. */
  say(kind, text, retry = null) {
    this.drop(kind);
    const box = make("div", { class: "message", "data-kind": kind }, make("p", {}, text));
    const buttons = make("div", { class: "row" });
    if (retry) {
      const again = make("button", { type: "button" }, "Try again");
      again.addEventListener("click", () => {
        this.drop(kind);
        retry();
      });
      buttons.append(again);
    }
    const close = make("button", { type: "button", class: "quiet" }, "Dismiss");
    close.addEventListener("click", () => this.drop(kind));
    buttons.append(close);
    box.append(buttons);
    this.#shown.set(kind, { ...this.#shown.get(kind), box });
    this.#place.append(box);
  }

  /** Report a file that could not be analysed, together with others of the same kind. */
  failed(kind, detail, job, retry) {
    const jobs = [...(this.#shown.get(kind)?.jobs ?? []), job];
    const named = jobs
      .slice(0, NAMED)
      .map(({ name, file }) => (kind === "large" ? `${name} (${bytes(file.size)})` : name));
    const rest = jobs.length - named.length;
    const names = named.join(", ") + (rest ? ` and ${plural(rest, "more file")}` : "");
    this.say(kind, (TEXTS[kind] ?? TEXTS.failed)(names, readable(detail)), AGAIN.has(kind) ? () => retry(jobs) : null);
    this.#shown.get(kind).jobs = jobs;
  }

  drop(kind) {
    this.#shown.get(kind)?.box.remove();
    this.#shown.delete(kind);
  }
}
