// The faces of one photograph as a list, as a table and in words.

import { capitalised, make, percent } from "./dom.js";
import { boxOf, colorOf, numberOf, thumbnail } from "./draw.js";

const CROP_PX = 144;

/** Describe where in the picture a face is, in thirds. */
function place([x, y, width, height], size) {
  const third = (middle, whole, names) => names[Math.max(0, Math.min(2, Math.floor((3 * middle) / whole)))];
  const across = third(x + width / 2, size.width, ["left", "centre", "right"]);
  const down = third(y + height / 2, size.height, ["upper", "", "lower"]);
  return `${down} ${across}`.trim();
}

/** Describe the result of one face in a few words. */
export function inWords(face) {
  const unsure = face.abstained ? ", unsure" : "";
  return `Face ${numberOf(face)}: ${face.emotion}, ${percent(face.probs[face.emotion])}${unsure}`;
}

/** The list of faces. Cards are reused while the number of faces is the same, so that bars move and focus stays. */
export class FaceList {
  #list;
  #cards = [];
  #onSelect;

  /** @param {function} onSelect called with the number of the highlighted face, or null. */
  constructor(list, onSelect) {
    this.#list = list;
    this.#onSelect = onSelect;
  }

  /** @param {object | null} picture decoded, or null where there is none; size: of the photograph, or null. */
  show(faces, picture, size) {
    const labels = Object.keys(faces[0]?.probs ?? {});
    const same =
      this.#cards.length === faces.length && this.#cards.every((card) => card.labels.join() === labels.join());
    if (!same) {
      this.#cards = faces.map((_, number) => this.#card(number, labels));
      this.#list.replaceChildren(...this.#cards.map((card) => card.item));
    }
    faces.forEach((face, number) => this.#fill(this.#cards[number], face, picture, size));
    this.#list.hidden = faces.length === 0;
    this.select(null);
  }

  /** Mark the highlighted face. */
  select(selected) {
    this.#cards.forEach((card, number) => card.button.setAttribute("aria-pressed", String(number === selected)));
  }

  #card(number, labels) {
    const parts = {
      labels,
      crop: make("canvas", { class: "crop", "aria-hidden": "true" }),
      emotion: make("span", { class: "emotion" }),
      prob: make("span", { class: "prob" }),
      where: make("span", { class: "where note" }),
      caption: make("caption", { class: "unseen" }),
      affect: make("p", { class: "note affect" }),
    };
    parts.button = make("button", { type: "button", class: "face-head", "aria-pressed": "false" }, parts.crop);
    parts.button.append(make("span", { class: "face-text" }, parts.emotion, " ", parts.prob, " ", parts.where));
    parts.button.addEventListener("click", () => {
      this.#onSelect(parts.button.getAttribute("aria-pressed") === "true" ? null : number);
    });
    parts.rows = labels.map((label) => {
      const bar = make("span", { class: "bar" });
      const value = make("td", { class: "value" });
      const row = make(
        "tr",
        {},
        make("th", { scope: "row" }, label),
        make("td", { class: "track", "aria-hidden": "true" }, bar),
        value,
      );
      bar.style.setProperty("--color", colorOf(label));
      return { label, row, bar, value };
    });
    const body = make("tbody", {}, ...parts.rows.map(({ row }) => row));
    const table = make("table", { class: "probs" }, parts.caption, body);
    parts.item = make("li", { class: "face" }, parts.button, table, parts.affect);
    return parts;
  }

  #fill(card, face, picture, size) {
    card.item.style.setProperty("--color", face.abstained ? "#ffffff" : colorOf(face.emotion));
    card.emotion.textContent = `${capitalised(face.emotion)}${face.abstained ? "?" : ""}`;
    card.prob.textContent = percent(face.probs[face.emotion]);
    const remarks = [`Face ${numberOf(face)}`, size && place(boxOf(face), size)];
    remarks.push(face.abstained && "unsure", face.tiny && "very small: unreliable");
    card.where.textContent = remarks.filter(Boolean).join(" · ");
    card.caption.textContent = `Probabilities of face ${numberOf(face)}`;
    for (const { label, row, bar, value } of card.rows) {
      row.classList.toggle("best", label === face.emotion);
      bar.style.setProperty("--share", face.probs[label]);
      value.textContent = percent(face.probs[label]);
    }
    const affect = ["valence", "arousal"].filter((name) => Number.isFinite(face[name]));
    card.affect.textContent = affect.map((name) => `${name} ${face[name].toFixed(2)}`).join(" · ");
    card.affect.hidden = affect.length === 0;
    card.crop.hidden = picture === null;
    if (picture) thumbnail(card.crop, picture, CROP_PX, boxOf(face));
  }
}

/** Create a table with one row per face. */
export function faceTable(faces) {
  const labels = Object.keys(faces[0].probs);
  const head = ["Face", "Emotion", ...labels, "x", "y", "Width", "Height", "Detector"];
  const rows = faces.map((face) => {
    const cells = [
      face.emotion,
      ...labels.map((label) => percent(face.probs[label])),
      ...boxOf(face).map(Math.round),
      face.face_score.toFixed(2),
    ];
    return make(
      "tr",
      {},
      make("th", { scope: "row" }, String(numberOf(face))),
      ...cells.map((cell) => make("td", {}, String(cell))),
    );
  });
  const header = make("tr", {}, ...head.map((name) => make("th", { scope: "col" }, name)));
  const caption = make(
    "caption",
    { class: "unseen" },
    "Emotion, probabilities, box in pixels and detector's confidence of each face",
  );
  return make("table", { class: "plain" }, caption, make("thead", {}, header), make("tbody", {}, ...rows));
}
