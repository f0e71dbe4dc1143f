// Pictures: decoding, boxes with emotions, heat maps. Lengths are CSS pixels, or pixels of the photograph where stated.

// Those of motivnet.inference.draw; labels name the emotions in any case.
const COLORS = {
  neutral: "#767f88",
  happiness: "#e69f00",
  sadness: "#3a84d6",
  surprise: "#56b4e9",
  fear: "#d884b4",
  disgust: "#009e73",
  anger: "#d55e00",
};
const OTHER = "#ffffff";
const INK = "#101418";
const LARGEST_SIDE = 2400;
// From dark to light, so that it also works without colour.
const RAMP = [
  [20, 11, 52],
  [101, 21, 110],
  [187, 55, 84],
  [243, 120, 25],
  [252, 214, 80],
];

/** Return the colour of a label. */
export const colorOf = (label) => COLORS[label] ?? OTHER;
/** The same for a line: white, of other labels, would not be seen. */
export const lineColorOf = (label) => COLORS[label] ?? "currentColor";
const faceColor = (face) => (face.abstained ? OTHER : colorOf(face.emotion));

/**
 * Decode an image, upright, at screen resolution.
 * @returns {{image: HTMLCanvasElement, width: number, height: number} | null} width and height are the file's own; null
 *   if this browser does not support the format.
 */
export async function decode(blob) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob);
  } catch {
    return null;
  }
  const { width, height } = bitmap;
  const shrink = Math.min(1, LARGEST_SIDE / Math.max(width, height));
  const image = canvasOf(Math.max(1, Math.round(width * shrink)), Math.max(1, Math.round(height * shrink)));
  pen(image).drawImage(bitmap, 0, 0, image.width, image.height);
  bitmap.close();
  return { image, width, height };
}

/** Set an element's aspect ratio to the photograph's; small photographs are enlarged at most twofold. */
export function fit(element, { width, height }) {
  element.style.setProperty("--ratio", width / height);
  element.style.setProperty("--widest", `${Math.max(360, 2 * width)}px`);
}

/** The number of a face: its column `track` in a table of results, or of a photograph `face`. */
export const numberOf = (face) => face.track ?? face.face;

/** The box of a face, [x, y, width, height], in pixels of the photograph. */
export const boxOf = ({ x, y, width, height }) => [x, y, width, height];

/** Draw a square crop of a decoded picture, `side` pixels wide: around a box, or the centre. */
export function thumbnail(target, picture, side, box = null) {
  const { image, width, height } = picture;
  const [boxX, boxY, boxWidth, boxHeight] = box ?? [0, 0, width, height];
  // A face with a margin; or the largest square.
  const edge = Math.min(1.25 * Math.max(boxWidth, boxHeight), width, height);
  const x = Math.min(Math.max(0, boxX + (boxWidth - edge) / 2), width - edge);
  const y = Math.min(Math.max(0, boxY + (boxHeight - edge) / 2), height - edge);
  const shrink = image.width / width;
  target.width = side;
  target.height = side;
  pen(target).drawImage(image, x * shrink, y * shrink, edge * shrink, edge * shrink, 0, 0, side, side);
}

/**
 * Draw a picture and its faces on a canvas, at its displayed width.
 * @param {object} picture image: null leaves the canvas transparent, as an overlay; width, height: of the photograph.
 * @param {object[]} faces from the server.
 * @param {object} options selected: number of the highlighted face, or null; attention: map of each face, or null.
 */
export function paint(canvas, picture, faces, { selected = null, attention = null } = {}) {
  const density = window.devicePixelRatio;
  const shown = { width: canvas.clientWidth, height: (canvas.clientWidth * picture.height) / picture.width };
  canvas.width = Math.round(shown.width * density);
  canvas.height = Math.round(shown.height * density);
  const context = pen(canvas);
  context.scale(density, density);
  if (picture.image) context.drawImage(picture.image, 0, 0, shown.width, shown.height);
  const scale = shown.width / picture.width;
  attention?.forEach((map) => map && drawHeat(context, map, scale));
  const boxes = faces.map((face) =>
    inside(
      boxOf(face).map((value) => value * scale),
      shown,
    ),
  );
  const taken = [];
  // The selected one last: on top.
  const order = faces.map((_, number) => number).sort((one, other) => (one === selected) - (other === selected));
  for (const number of order) {
    context.globalAlpha = selected === null || selected === number ? 1 : 0.35;
    drawBox(context, boxes[number], faceColor(faces[number]));
    const others = boxes.filter((_, other) => other !== number);
    drawLabel(
      context,
      labels(faces[number], faces.length),
      boxes[number],
      faceColor(faces[number]),
      shown,
      others,
      taken,
    );
  }
  context.globalAlpha = 1;
}

function drawBox(context, box, color) {
  for (const [style, width] of [
    [INK, 5.5],
    [color, 3],
  ]) {
    context.beginPath();
    context.roundRect(...box, Math.min(10, box[2] / 4, box[3] / 4));
    context.strokeStyle = style;
    context.lineWidth = width;
    context.stroke();
  }
}

/** Return the possible labels of a face, best first: in a crowd there is only room for a number. */
function labels(face, count) {
  const name = `${face.emotion}${face.abstained ? "?" : ""} ${Math.round(face.probs[face.emotion] * 100)}%`;
  const number = `#${numberOf(face)}`;
  return count > 1 || face.track != null ? [`${number}  ${name}`, number] : [name];
}

/** Keep the edges of a box that reaches beyond the photograph visible. */
function inside([x, y, width, height], shown) {
  const pad = 2;
  const left = Math.min(Math.max(pad, x), shown.width - 2 * pad);
  const top = Math.min(Math.max(pad, y), shown.height - 2 * pad);
  const right = Math.max(left + 1, Math.min(x + width, shown.width - pad));
  const bottom = Math.max(top + 1, Math.min(y + height, shown.height - pad));
  return [left, top, right - left, bottom - top];
}

/** Place the label above the box, below or inside: where it fits, and covers no other label or face. */
function drawLabel(context, texts, box, color, shown, others, taken) {
  const fontPx = shown.width < 480 ? 12 : 14;
  context.font = `600 ${fontPx}px ui-sans-serif, system-ui, sans-serif`;
  const height = fontPx + 11;
  const places = texts.flatMap((text) => {
    const width = context.measureText(text).width + 16;
    const left = Math.max(2, Math.min(box[0] - 1.5, shown.width - width - 2));
    const tops = [box[1] - height - 5, box[1] + box[3] + 5, box[1] + 5, box[1] + box[3] - height - 5];
    return tops.map((top) => ({ text, area: [left, top, width, height] }));
  });
  const isFree = ({ area }) =>
    area[1] >= 1 &&
    area[1] + height <= shown.height - 1 &&
    ![...others, ...taken].some((other) => overlap(area, other));
  const { text, area } = places.find(isFree) ?? places.at(-4);
  area[1] = Math.max(1, Math.min(area[1], shown.height - height - 1));
  taken.push(area);
  context.beginPath();
  context.roundRect(...area, 7);
  context.fillStyle = color;
  context.strokeStyle = INK;
  context.lineWidth = 2.5;
  context.stroke();
  context.fill();
  context.fillStyle = INK;
  context.textBaseline = "middle";
  context.fillText(text, area[0] + 8, area[1] + height / 2 + 0.5);
}

const overlap = (one, other) =>
  one[0] < other[0] + other[2] &&
  other[0] < one[0] + one[2] &&
  one[1] < other[1] + other[3] &&
  other[1] < one[1] + one[3];

/** Draw a map with values from 0 to 1 over the part of the photograph that the model saw. */
function drawHeat(context, { seen, rows, columns, values }, scale) {
  const small = canvasOf(columns, rows);
  const pixels = new ImageData(columns, rows);
  values.flat().forEach((value, place) => pixels.data.set([...rampColor(value), 120 + 120 * value], place * 4));
  pen(small).putImageData(pixels, 0, 0);
  context.drawImage(small, ...seen.map((value) => value * scale));
}

function rampColor(value) {
  const place = Math.min(1, Math.max(0, value)) * (RAMP.length - 1);
  const below = Math.min(RAMP.length - 2, Math.floor(place));
  return RAMP[below].map((low, channel) => low + (RAMP[below + 1][channel] - low) * (place - below));
}

function canvasOf(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas;
}

function pen(canvas) {
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  return context;
}
