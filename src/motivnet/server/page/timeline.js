// The emotions of a video's faces over time: a chart of lines per face, with a legend and a table of their means.

import { byId, make, number, percent } from "./dom.js";
import { colorOf, lineColorOf } from "./draw.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 1000;
const HEIGHT = 200;
// The faces that are seen longest.
const MAX_CHARTS = 6;
// A face that is missing for longer than so many of the usual steps between frames leaves a gap.
const GAP_STEPS = 2.5;

/** Return the faces of rows, as the server gives those of a photograph, by frame: [{time, faces}], in order. */
export function framesOf(rows) {
  const frames = new Map();
  for (const row of rows) {
    if (!frames.has(row.frame)) frames.set(row.frame, { time: row.time_s, faces: [] });
    if (row.status === "ok") frames.get(row.frame).faces.push(toFace(row));
  }
  return [...frames.values()];
}

function toFace(row) {
  const probs = Object.entries(row).filter(([name]) => name.startsWith("prob_"));
  return { ...row, probs: Object.fromEntries(probs.map(([name, value]) => [name.slice(5), value])) };
}

/** Return the faces of each track, the longest seen first: [{track, seen: [{time, face}]}]. */
function tracksOf(frames) {
  const tracks = new Map();
  for (const { time, faces } of frames) {
    for (const face of faces) {
      if (!tracks.has(face.track)) tracks.set(face.track, []);
      tracks.get(face.track).push({ time, face });
    }
  }
  const found = [...tracks].map(([track, seen]) => ({ track, seen }));
  return found.sort((one, other) => other.seen.length - one.seen.length);
}

export class Timeline {
  #cursors = [];
  #start = 0;
  #end = 1;
  #onSeek;

  /** @param {function} onSeek called with a time in seconds when a chart is pressed. */
  constructor(onSeek) {
    this.#onSeek = onSeek;
  }

  /** Show the charts of frames from `framesOf`; none hide them. */
  show(frames) {
    const tracks = tracksOf(frames);
    byId("timeline").hidden = tracks.length === 0;
    this.#cursors = [];
    if (tracks.length === 0) return;
    const labels = Object.keys(tracks[0].seen[0].face.probs);
    this.#start = frames[0].time;
    this.#end = Math.max(frames.at(-1).time, this.#start + 0.04);
    const step = (this.#end - this.#start) / Math.max(1, frames.length - 1);
    const key = labels.map((label) => {
      const dot = make("span", { class: "dot" });
      dot.style.setProperty("--color", colorOf(label));
      return make("li", {}, dot, label);
    });
    const shown = tracks.slice(0, MAX_CHARTS);
    const more = tracks.length - shown.length;
    byId("timeline-note").textContent =
      `Probability of each emotion, ${this.#start.toFixed(1)} to ${this.#end.toFixed(1)} seconds. Where there is no ` +
      `line, the face is not seen.${more ? ` The ${number(more)} faces seen for less time are in the table.` : ""}`;
    byId("timeline-key").replaceChildren(...key);
    byId("charts").replaceChildren(...shown.map((track) => this.#chart(track, labels, step)));
    byId("means").replaceChildren(meansTable(tracks, labels, step));
  }

  /** Mark a time on all charts. */
  mark(time) {
    const x = this.#x(time);
    for (const cursor of this.#cursors) {
      cursor.setAttribute("x1", x);
      cursor.setAttribute("x2", x);
    }
  }

  #x(time) {
    return (WIDTH * (time - this.#start)) / (this.#end - this.#start);
  }

  #chart({ track, seen }, labels, step) {
    const title = titleOf(track, seen, step);
    const chart = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
    chart.setAttribute("aria-label", `Timeline. ${title}`);
    for (const y of [0, HEIGHT / 2, HEIGHT]) chart.append(draw("line", { class: "grid", x1: 0, x2: WIDTH, y1: y, y2: y }));
    for (const label of labels) chart.append(draw("path", { d: this.#line(seen, label, step), stroke: lineColorOf(label) }));
    const cursor = draw("line", { class: "cursor", x1: 0, x2: 0, y1: 0, y2: HEIGHT });
    this.#cursors.push(cursor);
    chart.append(cursor);
    chart.addEventListener("click", (event) => {
      const { left, width } = chart.getBoundingClientRect();
      this.#onSeek(this.#start + ((event.clientX - left) / width) * (this.#end - this.#start));
    });
    return make("figure", {}, make("figcaption", {}, title), chart);
  }

  #line(seen, label, step) {
    let last = Number.NEGATIVE_INFINITY;
    const parts = seen.map(({ time, face }) => {
      const y = HEIGHT * (1 - face.probs[label]);
      const begins = time - last > GAP_STEPS * step;
      last = time;
      // A line through a single point is visible, as its ends are round.
      return `${begins ? "M" : "L"}${this.#x(time).toFixed(1)} ${y.toFixed(1)}${begins ? "h0" : ""}`;
    });
    return parts.join("");
  }
}

function titleOf(track, seen, step) {
  const most = mostOften(seen);
  return `Face #${track}: seen for ${(seen.length * step).toFixed(1)} s, mostly ${most}`;
}

function mostOften(seen) {
  const counts = {};
  for (const { face } of seen) counts[face.emotion] = (counts[face.emotion] ?? 0) + 1;
  return Object.keys(counts).reduce((one, other) => (counts[other] > counts[one] ? other : one));
}

function meansTable(tracks, labels, step) {
  const rows = tracks.map(({ track, seen }) => {
    const means = labels.map((label) => seen.reduce((sum, { face }) => sum + face.probs[label], 0) / seen.length);
    const cells = [`${(seen.length * step).toFixed(1)} s`, ...means.map(percent)];
    const head = make("th", { scope: "row" }, `#${track}`);
    return make("tr", {}, head, ...cells.map((cell) => make("td", {}, cell)));
  });
  const head = ["Face", "Seen for", ...labels].map((name) => make("th", { scope: "col" }, name));
  const caption = make("caption", { class: "unseen" }, "Mean probabilities of each face");
  return make("table", { class: "plain" }, caption, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows));
}

function draw(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

/** Return the faces at a time: those of the last frame that is not later. */
export function facesAt(frames, time) {
  const after = frames.findIndex((frame) => frame.time > time + 0.001);
  return (after < 0 ? frames.at(-1) : frames[Math.max(0, after - 1)])?.faces ?? [];
}
