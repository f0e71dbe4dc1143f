// Resizing and cropping as OpenCV and motivnet.preprocess do it, to the rounding: the model must see the same pixels.
// An image is {data, width, height}, with four bytes per pixel: red, green, blue and one that is not used.

const BITS = 11;
const ONE = 1 << BITS;

/** Round halves to the even number, as Python and OpenCV do. */
export function roundEven(value) {
  const low = Math.floor(value);
  const rest = value - low;
  if (rest !== 0.5) return Math.round(value);
  return low % 2 === 0 ? low : low + 1;
}

/** Crop to whole pixels; beyond the edges, the edge is repeated, or `fill` is a grey value. */
export function crop(image, [x, y, boxWidth, boxHeight], fill = null) {
  const [left, top] = [roundEven(x), roundEven(y)];
  const width = Math.max(left + 1, roundEven(x + boxWidth)) - left;
  const height = Math.max(top + 1, roundEven(y + boxHeight)) - top;
  const data = new Uint8ClampedArray(width * height * 4);
  for (let row = 0; row < height; row += 1) {
    for (let column = 0; column < width; column += 1) {
      const [fromX, fromY] = [left + column, top + row];
      const inside = fromX >= 0 && fromY >= 0 && fromX < image.width && fromY < image.height;
      const from = 4 * (clamp(fromY, image.height) * image.width + clamp(fromX, image.width));
      for (let channel = 0; channel < 3; channel += 1) {
        data[4 * (row * width + column) + channel] = inside || fill === null ? image.data[from + channel] : fill;
      }
    }
  }
  return { data, width, height };
}

const clamp = (place, size) => Math.min(Math.max(place, 0), size - 1);

/** Resize with one of the filters "area", "bilinear" and "bicubic"; the first two reduce exactly by 2 in the same way. */
export function resize(image, width, height, filter) {
  if (image.width === width && image.height === height) return image;
  const [acrossX, acrossY] = [image.width / width, image.height / height];
  if (filter === "area" || (filter === "bilinear" && acrossX === 2 && acrossY === 2)) return shrink(image, width, height);
  const taps = filter === "bicubic" ? cubicTaps : linearTaps;
  const columns = axis(image.width, width, taps);
  const rows = axis(image.height, height, taps);
  const data = new Uint8ClampedArray(width * height * 4);
  const lines = new Map();
  // A line of the image, resized horizontally; each is used for several rows.
  const line = (number) => {
    if (!lines.has(number)) lines.set(number, resizeLine(image, number, columns, width));
    return lines.get(number);
  };
  rows.forEach(({ places, weights }, row) => {
    const used = places.map(line);
    for (const number of lines.keys()) if (number < places[0]) lines.delete(number);
    for (let at = 0; at < 4 * width; at += 1) {
      if (at % 4 === 3) continue;
      data[4 * row * width + at] = weights.length === 2 ? mixTwo(used, weights, at) : mixFour(used, weights, at);
    }
  });
  return { data, width, height };
}

function resizeLine(image, number, columns, width) {
  const line = new Int32Array(4 * width);
  const start = 4 * number * image.width;
  columns.forEach(({ places, weights }, column) => {
    for (let channel = 0; channel < 3; channel += 1) {
      let sum = 0;
      for (let tap = 0; tap < weights.length; tap += 1) sum += weights[tap] * image.data[start + 4 * places[tap] + channel];
      line[4 * column + channel] = sum;
    }
  });
  return line;
}

// OpenCV rounds these two in different ways.
const mixTwo = ([above, below], [one, other], at) =>
  (((one * (above[at] >> 4)) >> 16) + ((other * (below[at] >> 4)) >> 16) + 2) >> 2;

function mixFour(lines, weights, at) {
  let sum = 0;
  for (let tap = 0; tap < 4; tap += 1) sum += weights[tap] * lines[tap][at];
  return Math.floor((sum + 2 ** (2 * BITS - 1)) / 2 ** (2 * BITS));
}

/** Return for each place of the target the places of the source, and their weights in units of 1 / 2048. */
function axis(from, to, taps) {
  const scale = from / to;
  return Array.from({ length: to }, (_, place) => {
    const middle = Math.fround((place + 0.5) * scale - 0.5);
    const before = Math.floor(middle);
    return taps(before, Math.fround(middle - before), from);
  });
}

function linearTaps(before, share, size) {
  if (before < 0) [before, share] = [0, 0];
  if (before >= size - 1) [before, share] = [size - 1, 0];
  const weights = [1 - share, share].map((weight) => roundEven(Math.fround(weight) * ONE));
  return { places: [before, clamp(before + 1, size)], weights };
}

function cubicTaps(before, share, size) {
  const a = -0.75;
  const far = (x) => ((a * (x + 1) - 5 * a) * (x + 1) + 8 * a) * (x + 1) - 4 * a;
  const near = (x) => ((a + 2) * x - (a + 3)) * x * x + 1;
  const weights = [far(share), near(share), near(1 - share)];
  weights.push(1 - weights[0] - weights[1] - weights[2]);
  return {
    places: [-1, 0, 1, 2].map((offset) => clamp(before + offset, size)),
    weights: weights.map((weight) => roundEven(Math.fround(weight) * ONE)),
  };
}

/** Reduce: each pixel is the mean of the area that it covers. */
function shrink(image, width, height) {
  const columns = covered(image.width, width);
  const rows = covered(image.height, height);
  const data = new Uint8ClampedArray(width * height * 4);
  const sums = new Float64Array(4 * width);
  rows.forEach((parts, row) => {
    sums.fill(0);
    for (const [number, weight] of parts) {
      const start = 4 * number * image.width;
      columns.forEach((across, column) => {
        for (const [place, share] of across) {
          const both = weight * share;
          for (let channel = 0; channel < 3; channel += 1) {
            sums[4 * column + channel] += both * image.data[start + 4 * place + channel];
          }
        }
      });
    }
    // Of exact halves OpenCV rounds up those of two by two pixels, others to the even number; sums may be a hair off.
    const two = image.width === 2 * width && image.height === 2 * height;
    sums.forEach((sum, at) => {
      const exact = Math.round(sum * 1e6) / 1e6;
      data[4 * row * width + at] = two ? Math.floor(exact + 0.5) : roundEven(exact);
    });
  });
  return { data, width, height };
}

/** Return for each place of the target [place of the source, share] of what it covers. */
function covered(from, to) {
  const scale = from / to;
  return Array.from({ length: to }, (_, place) => {
    const [start, end] = [place * scale, Math.min((place + 1) * scale, from)];
    const size = Math.min(scale, from - start);
    const [first, last] = [Math.ceil(start), Math.min(Math.floor(end), from - 1)];
    const parts = [];
    if (first - start > 1e-3) parts.push([first - 1, (first - start) / size]);
    for (let whole = first; whole < last; whole += 1) parts.push([whole, 1 / size]);
    if (end - last > 1e-3) parts.push([last, Math.min(end - last, 1, size) / size]);
    return parts;
  });
}
