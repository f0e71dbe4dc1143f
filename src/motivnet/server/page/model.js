// The description of the model, all of it from the server.

import { byId, bytes, make, number, percentTenths, plural } from "./dom.js";
import { colorOf } from "./draw.js";

/** Show the notice to the people here, if there is one, the name, the labels, the licence and the measured score, if there is one. */
export function describeModel(model) {
  byId("notice").hidden = !model.notice;
  byId("notice").textContent = model.notice ?? "";
  byId("model").textContent = `Model: ${model.name}`;
  byId("model").title = model.summary;
  byId("licence").textContent = `Model ${model.name}: ${model.summary}. Licence: ${model.licence}.`;
  byId("key").replaceChildren(...model.labels.map(keyEntry));
  const { video } = model;
  if (video) {
    byId("files").accept = "image/*,video/*";
    byId("choose").textContent = "Choose photographs or videos";
    byId("video-note").textContent =
      `Videos up to ${number(video.max_video_s)} s, ${bytes(video.max_video_bytes)} and ` +
      `${(video.max_video_pixels / 1e6).toFixed(1)} megapixels; ${plural(video.video_fps, "frame")} of a second are looked at.`;
  }
  byId("video-note").hidden = !video;
  const score = inWords(model.scores);
  if (score) byId("score").replaceChildren(make("b", {}, "Often wrong."), ` ${score}`);
}

function keyEntry(label) {
  const dot = make("span", { class: "dot" });
  dot.style.setProperty("--color", colorOf(label));
  return make("li", {}, dot, label);
}

/** Describe the first measured accuracy of the scores; null if there is none. */
function inWords(scores) {
  const [where, measured] = Object.entries(scores ?? {}).find(([, values]) => Number.isFinite(values.war)) ?? [];
  if (!measured) return null;
  const images = Number.isFinite(measured.images) ? plural(measured.images, "image") : "the images";
  const wrong = number(Math.round(100 * (1 - measured.war)));
  return (
    `Its accuracy on ${images} of ${where} is ${percentTenths(measured.war)}: about ${wrong} in 100 answers differ ` +
    "from the label. Read the probabilities, not just the first word."
  );
}
