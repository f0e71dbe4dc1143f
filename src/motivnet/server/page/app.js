// The page: its state, the queue of files, and the buttons.

import { Api, ApiError } from "./api.js";
import { Camera } from "./camera.js";
import { byId, bytes, make, number, plural } from "./dom.js";
import { decode, fit, paint } from "./draw.js";
import { download, toCsv, toJson } from "./export.js";
import { FaceList, faceTable, inWords } from "./faces.js";
import { describe, History, summarise } from "./history.js";
import { acceptFiles } from "./intake.js";
import { Messages } from "./messages.js";
import { isVideo, Player } from "./player.js";
import { describeModel } from "./model.js";
import { followTheme } from "./theme.js";

const SAY_LIVE_MS = 4000;

const api = new Api();
const messages = new Messages();
const camera = new Camera(byId("video"));
const history = new History(byId("thumbs"), show);
const list = new FaceList(byId("faces"), select);
const player = new Player(showFrame);

// The displayed entry of the history, its decoded picture, and how it is displayed.
let shown = null;
// Limits of a video; null if the page takes none.
let videoLimits = null;
let picture = null;
let selected = null;
let heat = false;
// Files to analyse, as {file, name}; `total` counts all since the queue was last empty.
let jobs = [];
let total = 0;
let work = null;
// The last live result, and the last announcement of one.
let live = null;
let spoken = { text: "", at: -SAY_LIVE_MS };

// --- The model ------------------------------------------------------------------------------------------------------

async function meetModel() {
  let model;
  try {
    model = await api.model();
  } catch (error) {
    if (error.kind === "token") askToken();
    else messages.say("model", "The server does not describe its model. It may be starting or not running.", meetModel);
    return false;
  }
  describeModel(model);
  videoLimits = model.video ?? null;
  byId("heat").hidden = model.attention !== true;
  return true;
}

function askToken() {
  byId("token-form").hidden = false;
  byId("token-note").textContent = api.token === null ? "" : "The server did not accept this token.";
  byId("token").focus();
}

byId("token-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  api.token = byId("token").value.trim();
  if (!(await meetModel())) return;
  byId("token-form").hidden = true;
  byId("token").value = "";
  byId("choose").focus();
  run();
});

// --- Analysing ------------------------------------------------------------------------------------------------------

function add(files) {
  const fresh = [...files].map((file) => ({ file, name: file.name || "pasted picture" }));
  if (fresh.length === 0) return;
  if (camera.on) turnOff();
  enqueue(fresh);
}

function enqueue(fresh) {
  total = (work ? total : jobs.length) + fresh.length;
  jobs.push(...fresh);
  run();
}

async function run() {
  if (work || jobs.length === 0) return;
  work = new AbortController();
  while (jobs.length > 0) {
    const job = jobs.shift();
    try {
      await analyse(job);
    } catch (error) {
      if (work.signal.aborted) {
        // More files may have been added since the button was pressed.
        work = new AbortController();
        continue;
      }
      if (error.kind === "token") {
        jobs.unshift(job);
        askToken();
        break;
      }
      // Without a server the others would fail too.
      const lost = error.kind === "gone" ? [job, ...jobs.splice(0)] : [job];
      lost.forEach((it) => messages.failed(error.kind ?? "failed", error.message, it, enqueue));
    }
  }
  work = null;
  byId("progress").hidden = true;
}

async function analyse(job) {
  showProgress(job, "");
  const onWait = (seconds, attempt, tries) =>
    showProgress(job, `the server is busy; try ${attempt} of ${tries} in ${plural(seconds, "second")}`);
  const options = { signal: work.signal, onWait };
  if (!isVideo(job.file)) return keep(job, await api.predict(job.file, job.name, options));
  if (!videoLimits) throw new ApiError("video", "");
  if (job.file.size > videoLimits.max_video_bytes) throw new ApiError("large", `the limit is ${bytes(videoLimits.max_video_bytes)}`);
  showProgress(job, "a video takes a while");
  return keep(job, await api.video(job.file, job.name, options));
}

async function keep(job, result) {
  const decoded = result.rows ? null : await decode(job.file);
  const size = decoded && { width: decoded.width, height: decoded.height };
  // Forms encode some characters of file names differently.
  const entry = { ...job, size, result: { ...result, source: job.name } };
  history.add(entry, decoded);
  byId("history").hidden = false;
  byId("history-note").textContent = `${history.summary()}. In this tab's memory only.`;
  if (!camera.on) await show(entry, decoded);
}

function showProgress(job, note) {
  const done = total - jobs.length - 1;
  byId("progress").hidden = false;
  byId("progress-bar").max = total;
  byId("progress-bar").value = done;
  const count = total > 1 ? `${done + 1} of ${total}: ` : "";
  byId("progress-text").textContent = `${count}${job.name}${note && ` \u2013 ${note}`}`;
  byId("cancel").hidden = total === 1 && !note;
}

byId("cancel").addEventListener("click", () => {
  const left = jobs.length + 1;
  jobs = [];
  work?.abort();
  say(`Stopped; ${plural(left, "file")} skipped.`);
});

// --- Showing --------------------------------------------------------------------------------------------------------

/** Show an entry of the history. */
async function show(entry, decoded = undefined) {
  if (camera.on) turnOff();
  shown = entry;
  selected = null;
  history.mark(entry);
  const plays = Boolean(entry.result.rows) && entry.result.status !== "unreadable";
  const ready = decoded === undefined && !plays ? await decode(entry.file) : (decoded ?? null);
  // Another may have been selected meanwhile.
  if (shown !== entry) return;
  picture = ready;
  const { result } = entry;
  byId("empty").hidden = true;
  byId("key").hidden = result.faces.length > 0;
  byId("picture").hidden = picture === null;
  byId("player").hidden = !plays;
  byId("broken").hidden = picture !== null || plays;
  byId("broken-title").textContent = result.status === "unreadable" ? "This file cannot be read" : "No preview";
  byId("broken-text").textContent =
    result.status === "unreadable"
      ? `${entry.name}: ${result.error}`
      : "The server can read this kind of file, but this browser cannot show it.";
  byId("legend").hidden = true;
  byId("caption").hidden = false;
  const size = entry.size ? ` · ${number(entry.size.width)} × ${number(entry.size.height)} pixels` : "";
  const notes = (result.notes ?? []).map((note) => ` · ${note}`).join("");
  byId("caption").textContent = `${entry.name} · ${bytes(entry.file.size)}${size}${notes}`;
  byId("picture").setAttribute("aria-label", describe(entry));
  if (picture) fit(byId("picture"), picture);
  list.show(result.faces, picture, entry.size);
  showTable(result.faces);
  byId("heat").disabled = result.faces.length === 0;
  sayShown();
  if (plays) player.show(entry, cannotPlay);
  else player.stop();
  redraw();
  await fetchHeat();
}

function cannotPlay() {
  byId("player").hidden = true;
  byId("broken").hidden = false;
}

/** Show the faces of a video's frame. */
function showFrame(faces, size) {
  selected = null;
  byId("key").hidden = true;
  list.show(faces, null, size);
  showTable(faces);
  redraw();
}

function showTable(faces) {
  byId("table").hidden = faces.length === 0;
  byId("table-body").replaceChildren(...(faces.length ? [faceTable(faces)] : []));
}

function redraw() {
  if (camera.on) {
    if (live) paint(byId("overlay"), { ...live.picture, image: null }, live.result.faces, { selected });
  } else if (player.on) {
    player.paint(selected);
  } else if (shown && picture) {
    const attention = heat ? shown.attention : null;
    paint(byId("picture"), picture, shown.result.faces, { selected, attention });
    byId("legend").hidden = !attention?.some(Boolean);
  }
}

function select(face) {
  selected = face;
  list.select(face);
  redraw();
}

/** Show `text` as the status; `more` is added for screen readers, and visible elsewhere on the page. */
function say(text, more = "") {
  byId("status").replaceChildren(text, make("span", { class: "unseen" }, ` ${more}`));
}

const sayShown = () =>
  say(
    summarise(shown),
    `${heat && shown.attention ? "Heat map shown. " : ""}${shown.result.faces.map(inWords).join(". ")}`,
  );

async function fetchHeat() {
  const entry = shown;
  if (!heat || !entry || entry.result.rows || entry.attention || entry.result.status !== "ok") return redraw();
  byId("heat").setAttribute("aria-busy", "true");
  say("Computing the heat map. The first one takes some seconds.");
  try {
    const result = await api.explain(entry.file, entry.name);
    entry.attention = result.faces.map((face) => face.attention ?? null);
    if (entry === shown) sayShown();
  } catch (error) {
    if (entry === shown) sayShown();
    if (error.kind === "token") askToken();
    else messages.say("heat", `No heat map of ${entry.name}: ${error.message}.`);
  } finally {
    byId("heat").removeAttribute("aria-busy");
  }
  return redraw();
}

byId("heat").addEventListener("click", () => {
  heat = !heat;
  byId("heat").setAttribute("aria-pressed", String(heat));
  byId("legend").hidden = true;
  fetchHeat();
});
new ResizeObserver(redraw).observe(byId("stage"));

// --- Camera ---------------------------------------------------------------------------------------------------------

async function turnOn(next = false) {
  messages.drop("camera");
  const lost = () => {
    leaveCamera();
    messages.say("camera", "The camera was disconnected.");
  };
  try {
    await (next ? camera.next(lost) : camera.start(lost));
  } catch (error) {
    leaveCamera();
    messages.say("camera", error.message);
    return;
  }
  live = null;
  selected = null;
  player.stop();
  for (const id of ["empty", "broken", "picture", "player", "caption", "legend"]) byId(id).hidden = true;
  for (const id of ["live", "camera-bar"]) byId(id).hidden = false;
  byId("switch").hidden = camera.count < 2;
  byId("camera").setAttribute("aria-pressed", "true");
  byId("heat").disabled = true;
  fit(byId("live"), camera.size);
  clearFaces();
  setLive(false);
  say("The camera is on. Nothing is sent until you take a picture or turn on live.");
}

function turnOff() {
  camera.stop();
  setLive(false);
  for (const id of ["live", "camera-bar"]) byId(id).hidden = true;
  byId("camera").setAttribute("aria-pressed", "false");
}

function clearFaces() {
  list.show([], null, null);
  showTable([]);
  byId("key").hidden = false;
  const overlay = byId("overlay");
  overlay.width = overlay.clientWidth;
}

/** Show again what was displayed before the camera. */
function leaveCamera() {
  turnOff();
  if (shown) {
    show(shown, picture);
  } else {
    clearFaces();
    byId("empty").hidden = false;
    say("The camera is off.");
  }
}

function setLive(on) {
  byId("live-toggle").setAttribute("aria-pressed", String(on));
  byId("rate").textContent = "";
  if (!on) camera.stopLive();
}

function startLive() {
  setLive(true);
  const send = (blob, signal) => api.predict(blob, "camera.jpg", { signal, tries: 1 });
  camera.startLive(send, showLive, (error) => {
    setLive(false);
    if (error.kind === "token") askToken();
    else messages.say("camera", `Live stopped: ${error.message}.`);
  });
}

function showLive(result, frame, milliseconds) {
  live = { result, picture: frame };
  byId("key").hidden = result.faces.length > 0;
  const keptSelection = selected !== null && selected < result.faces.length ? selected : null;
  list.show(result.faces, frame, frame);
  showTable(result.faces);
  select(keptSelection);
  byId("rate").textContent = `${Math.round(milliseconds)} ms`;
  const text = `Live: ${result.faces.map((face) => face.emotion).join(", ") || "no face"}.`;
  // Often enough to follow, rarely enough for a screen reader.
  if (text !== spoken.text && performance.now() - spoken.at > SAY_LIVE_MS) {
    spoken = { text, at: performance.now() };
    say(text);
  }
}

byId("camera").addEventListener("click", () => (camera.on ? leaveCamera() : turnOn()));
byId("stop").addEventListener("click", () => {
  leaveCamera();
  byId("camera").focus();
});
byId("switch").addEventListener("click", () => turnOn(true));
byId("live-toggle").addEventListener("click", () => {
  if (!camera.live) return startLive();
  setLive(false);
  return say("Live is off.");
});
byId("take").addEventListener("click", async () => {
  const { blob } = await camera.picture();
  turnOff();
  byId("camera").focus();
  const stamp = new Date().toISOString().slice(11, 19).replaceAll(":", "");
  enqueue([{ file: blob, name: `camera-${stamp}.jpg` }]);
});

// --- Files in and out -----------------------------------------------------------------------------------------------

acceptFiles(add, messages, say);

byId("csv").addEventListener("click", () => download(toCsv(history.entries), "csv", "text/csv;charset=utf-8"));
byId("json").addEventListener("click", () => download(toJson(history.entries), "json", "application/json"));
byId("clear").addEventListener("click", () => {
  history.clear();
  shown = null;
  picture = null;
  player.stop();
  for (const id of ["history", "picture", "player", "broken", "caption", "legend"]) byId(id).hidden = true;
  byId("empty").hidden = camera.on;
  byId("heat").disabled = true;
  clearFaces();
  say("The history is empty.");
  byId("choose").focus();
});

followTheme();
meetModel();
