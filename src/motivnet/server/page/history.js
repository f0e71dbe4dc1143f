// The photographs of the session as a strip of thumbnails. In memory only.

import { make, plural } from "./dom.js";
import { colorOf, thumbnail } from "./draw.js";
import { inWords } from "./faces.js";

const THUMB_PX = 176;
// Their thumbnails and results take about 60 MB.
export const MAX_ENTRIES = 500;

export class History {
  #list;
  #onChoose;
  #buttons = new Map();
  entries = [];

  /** @param {function} onChoose called with the entry whose thumbnail was pressed. */
  constructor(list, onChoose) {
    this.#list = list;
    this.#onChoose = onChoose;
  }

  /** Add an entry; the oldest is removed when there are too many. */
  add(entry, picture) {
    this.entries.push(entry);
    const button = make("button", { type: "button", class: "thumb", "aria-label": describe(entry), title: entry.name });
    button.append(
      picture ? thumb(picture) : make("span", { class: "no-thumb", "aria-hidden": "true" }, entry.result.rows ? "\u25B6" : "?"),
      badge(entry),
    );
    button.addEventListener("click", () => this.#onChoose(entry));
    this.#buttons.set(entry, button);
    this.#list.append(make("li", {}, button));
    if (this.entries.length > MAX_ENTRIES) {
      this.#buttons.delete(this.entries.shift());
      this.#list.firstElementChild.remove();
    }
  }

  /** Mark the displayed entry; null marks none. */
  mark(shown) {
    for (const [entry, button] of this.#buttons) {
      if (entry === shown) {
        button.setAttribute("aria-current", "true");
        // Horizontally only: the page itself must not scroll.
        this.#list.scrollLeft = button.offsetLeft - (this.#list.clientWidth - button.clientWidth) / 2;
      } else {
        button.removeAttribute("aria-current");
      }
    }
  }

  /** Count the files and their faces. */
  summary() {
    const faces = this.entries.reduce((sum, { result: it }) => sum + (it.rows ? tracksIn(it) : it.faces.length), 0);
    const kind = this.entries.some(({ result }) => result.rows) ? "file" : "photograph";
    return `${plural(this.entries.length, kind)}, ${plural(faces, "face")}`;
  }

  clear() {
    this.entries = [];
    this.#buttons.clear();
    this.#list.replaceChildren();
  }
}

/** Describe the result of a photograph in one sentence. */
export function summarise({ name, result }) {
  if (result.status === "unreadable") return `${name}: cannot be read: ${result.error}.`;
  if (result.rows && result.status === "ok") return `${name}: ${plural(tracksIn(result), "face")}.`;
  return `${name}: ${result.faces.length ? plural(result.faces.length, "face") : "no face found"}.`;
}

/** The number of faces in the rows of a video. */
export const tracksIn = ({ rows }) => new Set(rows.map((row) => row.track).filter(Number.isInteger)).size;

/** Describe the result of a photograph, with every face. */
export const describe = (entry) =>
  [summarise(entry), ...entry.result.faces.map((face) => `${inWords(face)}.`)].join(" ");

function thumb(picture) {
  const canvas = make("canvas", { "aria-hidden": "true" });
  thumbnail(canvas, picture, THUMB_PX);
  return canvas;
}

function badge({ result }) {
  const dots = result.faces.slice(0, 4).map((face) => {
    const dot = make("span", { class: "dot" });
    dot.style.setProperty("--color", face.abstained ? "#ffffff" : colorOf(face.emotion));
    return dot;
  });
  const words = {
    ok: result.faces.length > 4 ? String(result.faces.length) : "",
    no_face: "no face",
    unreadable: "unreadable",
  };
  return make("span", { class: "badge", "aria-hidden": "true" }, ...dots, words[result.status]);
}
