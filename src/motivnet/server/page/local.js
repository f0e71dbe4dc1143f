// The model in the browser, in place of the server: the same answers, and no image leaves the page.
// `motivnet page` writes what this takes from globalThis.motivnet; globalThis.ort is onnxruntime-web.

import { crop, resize, roundEven } from "./resize.js";

// As in motivnet.faces: strides, thresholds, and how many faces there are at most.
const STRIDES = [8, 16, 32];
const MAX_IOU = 0.45;
const MAX_FACES = 256;
const TINY_SIDE_PX = 24;
const MAX_PIXELS = 50_000_000;
// ITU-R BT.601 luma.
const LUMA = [0.299, 0.587, 0.114].map(Math.fround);

/** A request that failed; `kind` as of the server's. */
export class ApiError extends Error {
  constructor(kind, detail) {
    super(detail);
    this.kind = kind;
  }
}

export class Api {
  token = null;
  #sessions = null;

  /** Return the description of the model, as a server's. */
  async model() {
    const { config, fingerprint } = globalThis.motivnet;
    return { ...config, labels: config.labels.names, preprocessing: fingerprint, attention: false, video: null };
  }

  /** Return the result of one image, as a server's. */
  async predict(image, name) {
    const { detector, config, fingerprint } = globalThis.motivnet;
    const { preprocessing, calibration, labels } = config;
    const result = { source: name, status: "ok", error: null, model: config.name, preprocessing: fingerprint };
    const pixels = await pixelsOf(image).catch((error) => error);
    if (pixels instanceof Error) return { ...result, status: "unreadable", error: pixels.message, faces: [] };
    this.#sessions ??= open();
    const [find, classify] = await this.#sessions.catch((error) => {
      this.#sessions = null;
      throw new ApiError("failed", `the model cannot be run in this browser (${error.message})`);
    });
    const found = await detect(find, pixels, detector);
    const faces = [];
    for (const face of found) {
      const [height, width] = preprocessing.size;
      const input = new globalThis.ort.Tensor("float32", prepare(pixels, face, preprocessing), [
        1,
        preprocessing.channels === "grey" ? 1 : 3,
        height,
        width,
      ]);
      const outputs = await classify.run({ pixels: input });
      faces.push(answer(face, faces.length, probsOf(outputs.logits.data, calibration), outputs.affect, labels.names));
    }
    return { ...result, status: faces.length ? "ok" : "no_face", faces };
  }
}

/** Start the runtime, once, with what the scripts of the page hold. */
async function open() {
  const { ort, motivnet } = globalThis;
  const glue = new Blob([await inflate(motivnet.data.mjs)], { type: "text/javascript" });
  // One thread: more need headers that a folder of files has not.
  Object.assign(ort.env.wasm, {
    numThreads: 1,
    wasmPaths: { mjs: URL.createObjectURL(glue) },
    wasmBinary: await inflate(motivnet.data.wasm),
  });
  const create = (weights) => ort.InferenceSession.create(bytesOf(weights), { executionProviders: ["wasm"] });
  return [await create(motivnet.data.detector), await create(motivnet.data.model)];
}

function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at += 1) bytes[at] = text.charCodeAt(at);
  return bytes;
}

const inflate = (base64) =>
  new Response(new Blob([bytesOf(base64)]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();

/** Decode an image, upright; transparency becomes white. */
async function pixelsOf(blob) {
  const options = { imageOrientation: "from-image", colorSpaceConversion: "none" };
  const bitmap = await createImageBitmap(blob, options).catch(() => {
    throw new Error("not an image that this browser can read");
  });
  const { width, height } = bitmap;
  if (width * height > MAX_PIXELS) throw new Error(`${width} x ${height} pixels, the limit is ${MAX_PIXELS} in all`);
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#ffffff";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return context.getImageData(0, 0, width, height);
}

/** Detect faces with YuNet: [{x, y, width, height, face_score}], largest first. */
async function detect(session, image, config) {
  const longer = Math.max(image.width, image.height);
  const target = Math.min(Math.max(longer, config.min_long_side), config.long_side);
  const side = (length) => Math.max(1, roundEven((length * target) / longer));
  const small = resize(image, side(image.width), side(image.height), 2 * target < longer ? "area" : "bilinear");
  const [width, height] = [small.width, small.height].map((length) => Math.ceil(length / 32) * 32);
  const input = new Float32Array(3 * width * height);
  for (let y = 0; y < small.height; y += 1) {
    for (let x = 0; x < small.width; x += 1) {
      for (let channel = 0; channel < 3; channel += 1) {
        input[(channel * height + y) * width + x] = small.data[4 * (y * small.width + x) + channel];
      }
    }
  }
  const tensor = new globalThis.ort.Tensor("float32", input, [1, 3, height, width]);
  const outputs = await session.run({ [session.inputNames[0]]: tensor });
  const scale = [image.width / small.width, image.height / small.height];
  const found = STRIDES.flatMap((stride) => candidates(outputs[`stride${stride}`], stride, scale, config.min_score));
  return keepOneOfEach(found).sort((one, other) => area(other) - area(one) || one.x - other.x || one.y - other.y);
}

function candidates({ data, dims }, stride, [scaleX, scaleY], minScore) {
  const [rows, columns] = dims.slice(-2);
  const cells = rows * columns;
  const sigmoid = (value) => 1 / (1 + Math.exp(-value));
  const found = [];
  for (let cell = 0; cell < cells; cell += 1) {
    const score = Math.sqrt(sigmoid(data[cell]) * sigmoid(data[cells + cell]));
    if (score < minScore) continue;
    const value = (number) => data[(2 + number) * cells + cell];
    const [width, height] = [Math.exp(value(2)) * stride * scaleX, Math.exp(value(3)) * stride * scaleY];
    const x = (value(0) + (cell % columns)) * stride * scaleX - width / 2;
    const y = (value(1) + Math.floor(cell / columns)) * stride * scaleY - height / 2;
    found.push({ x, y, width, height, face_score: score });
  }
  return found;
}

function keepOneOfEach(found) {
  const kept = [];
  for (const face of found.sort((one, other) => other.face_score - one.face_score)) {
    if (kept.length < MAX_FACES && kept.every((other) => iou(face, other) <= MAX_IOU)) kept.push(face);
  }
  return kept;
}

const area = ({ width, height }) => width * height;

function iou(one, other) {
  const width = Math.min(one.x + one.width, other.x + other.width) - Math.max(one.x, other.x);
  const height = Math.min(one.y + one.height, other.y + other.height) - Math.max(one.y, other.y);
  const shared = Math.max(0, width) * Math.max(0, height);
  return shared / (area(one) + area(other) - shared);
}

/** Crop, resize and normalise a face, for geometry "square". */
function prepare(image, { x, y, width, height }, { size, margin, fill, filter, channels, mean, std }) {
  const edge = Math.max(width, height) * (1 + 2 * margin);
  const square = crop(image, [x + (width - edge) / 2, y + (height - edge) / 2, edge, edge], fill);
  const smaller = Math.min(square.width, square.height) > Math.max(...size);
  const { data } = resize(square, size[1], size[0], smaller ? "area" : filter);
  const pixels = size[0] * size[1];
  const input = new Float32Array(pixels * mean.length);
  for (let place = 0; place < pixels; place += 1) {
    const rgb = data.subarray(4 * place, 4 * place + 3);
    const luma = () => roundEven(Math.fround(Math.fround(LUMA[0] * rgb[0] + LUMA[1] * rgb[1]) + LUMA[2] * rgb[2]));
    (channels === "grey" ? [luma()] : rgb).forEach((value, channel) => {
      input[channel * pixels + place] = (value - mean[channel]) / std[channel];
    });
  }
  return input;
}

/** Map logits to calibrated probabilities. */
function probsOf(logits, { temperature, exponent }) {
  const highest = Math.max(...logits);
  const weights = Array.from(logits, (logit) => Math.exp(-((highest - logit) ** exponent) / temperature));
  const sum = weights.reduce((total, weight) => total + weight, 0);
  return weights.map((weight) => weight / sum);
}

function answer(face, number, probs, affect, labels) {
  const best = probs.indexOf(Math.max(...probs));
  const box = ["x", "y", "width", "height"].map((name) => [name, Math.round(100 * face[name]) / 100]);
  return {
    face: number,
    ...Object.fromEntries(box),
    face_score: face.face_score,
    emotion: labels[best],
    prob: probs[best],
    tiny: Math.min(face.width, face.height) < TINY_SIDE_PX,
    abstained: false,
    ...(affect ? { valence: affect.data[0], arousal: affect.data[1] } : {}),
    probs: Object.fromEntries(labels.map((label, place) => [label, probs[place]])),
  };
}
