// Results as files: the JSON of the server, and the CSV that `motivnet predict --out` writes.

import { make } from "./dom.js";

// The columns of motivnet.inference.rows, before and after the probabilities.
const BEFORE = "source frame time_s face track x y width height face_score emotion prob".split(" ");
const AFTER = "status error model preprocessing image_width image_height tiny abstained short_track".split(" ");

const valuesOf = ({ result }) => (result.rows ? { source: result.source, notes: result.notes, rows: result.rows } : result);

/** @param {object[]} entries of the session. */
export const toJson = (entries) => `${JSON.stringify({ results: entries.map(valuesOf) }, null, 2)}\n`;

/** One row per face, or one for an image or a frame without a face; with the columns of the command line. */
export function toCsv(entries) {
  const rows = entries.flatMap(rowsOf);
  const names = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  const given = (some) => some.filter((name) => rows.some((row) => Number.isFinite(row[name])));
  const probs = names.filter((name) => name.startsWith("prob_"));
  const landmarks = names.filter((name) => /_[xy]$|^(yaw|pitch|roll)$/.test(name));
  const columns = [...BEFORE, ...probs, ...given(["valence", "arousal"]), ...AFTER, ...given(landmarks)];
  const lines = rows.map((row) => columns.map((column) => row[column]));
  return [columns, ...lines].map((line) => `${line.map(cell).join(",")}\r\n`).join("");
}

function rowsOf({ result, size }) {
  if (result.rows) return result.rows;
  const { source, status, error, model, preprocessing } = result;
  const image = { source, status, error, model, preprocessing, image_width: size?.width, image_height: size?.height };
  if (result.faces.length === 0) return [image];
  return result.faces.map(({ probs, ...face }) => {
    const columns = Object.entries(probs).map(([label, prob]) => [`prob_${label}`, prob]);
    return { ...image, ...face, ...Object.fromEntries(columns) };
  });
}

function cell(value) {
  if (value === null || value === undefined) return "";
  // As Python's csv module writes them.
  if (typeof value === "boolean") return value ? "True" : "False";
  // A spreadsheet would calculate text that begins so, such as a file's name.
  const text = typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Download text as a file whose name is a timestamp. */
export function download(text, extension, type) {
  const stamp = new Date().toISOString().slice(0, 19).replaceAll(/[-:]/g, "").replace("T", "-");
  const address = URL.createObjectURL(new Blob([text], { type }));
  make("a", { href: address, download: `motivnet-${stamp}.${extension}` }).click();
  // Not before the browser has read it.
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}
