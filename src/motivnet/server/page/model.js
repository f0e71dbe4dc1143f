// The description of the model, all of it from the server.

import { byId, make, number, percentTenths, plural } from "./dom.js";
import { colorOf } from "./draw.js";

/** Show the notice to the people here, if there is one, the name, the labels, the licence and the measured score, if there is one. */
export function describeModel(model) {
  byId("notice").hidden = !model.notice;
  byId("notice").textContent = model.notice ?? "";
  byId("model").textContent = `Model: ${model.name}`;
  byId("model").title = model.summary;
  byId("licence").textContent = `Model ${model.name}: ${model.summary}. Licence: ${model.licence}.`;
  byId("key").replaceChildren(...model.labels.map(keyEntry));
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
