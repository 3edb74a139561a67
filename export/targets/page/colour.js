// Image arithmetic, bit for bit that of compress/process/strips.py where floats allow it.
//
// An image is {data: Float32Array [3, height, width], height, width}, with values in about [0, 1].

const { fround } = Math;
const CHANNELS = 3;
const DISTANCES = [1, 2, 4, 8, 16]; // of the five blurs of the wavelet correction
const GAIN = 4 ** -DISTANCES.length; // of the blurs along one axis; they are sums otherwise
const LUMA = [0.299, 0.587, 0.114].map(fround); // of red, green and blue (BT.601)
const FLAT = 1e-6; // a channel of a smaller deviation takes the mean
const TAPS = 5;
const REACH = 2; // pixels on each side that the cubic looks at
const WHITE = 255;

export function image(height, width) {
  return { data: new Float32Array(CHANNELS * height * width), height, width };
}

export function clip(x) {
  return x < 0 ? 0 : x > 1 ? 1 : x;
}

// To the nearest whole number, halves to the even one, as numpy rounds.
export function rint(x) {
  const low = Math.floor(x);
  const part = x - low;
  if (part !== 0.5) return part < 0.5 ? low : low + 1;
  return low % 2 === 0 ? low : low + 1;
}

function clamp(index, side) {
  return index < 0 ? 0 : index >= side ? side - 1 : index;
}

// Keys' kernel with a = -0.75.
function cubic(t) {
  const x = Math.abs(t);
  if (x <= 1) return 1.25 * x ** 3 - 2.25 * x ** 2 + 1;
  if (x < 2) return -0.75 * (x ** 3 - 5 * x ** 2 + 8 * x - 4);
  return 0;
}

// For each of `scale` output pixels in an input pixel: [offset of a tap, its weight] ...
function phases(scale) {
  return Array.from({ length: scale }, (_, phase) => {
    const place = (phase + 0.5) / scale - 0.5;
    const taps = Array.from({ length: TAPS }, (_, k) => [k - REACH, cubic(k - REACH - place)]);
    return taps.filter(([, weight]) => weight !== 0).map(([k, weight]) => [k, fround(weight)]);
  });
}

function weighted(source, start, stride, index, side, taps) {
  let total = 0;
  for (let i = 0; i < taps.length; i++) {
    const x = source[start + clamp(index + taps[i][0], side) * stride];
    total = i === 0 ? fround(taps[i][1] * x) : fround(total + fround(taps[i][1] * x));
  }
  return total;
}

// Bicubic enlargement by a whole factor: pixel centres aligned, edges repeated.
export function enlarge(lr, scale) {
  const { data, height, width } = lr;
  const out = image(height * scale, width * scale);
  const steps = phases(scale);
  const tall = new Float32Array(width);
  for (let row = 0; row < CHANNELS * out.height; row++) {
    const channel = Math.floor(row / out.height);
    const y = row % out.height;
    const vertical = steps[y % scale];
    for (let x = 0; x < width; x++) {
      const start = channel * height * width + x;
      tall[x] = weighted(data, start, width, Math.floor(y / scale), height, vertical);
    }
    for (let x = 0; x < out.width; x++) {
      const taps = steps[x % scale];
      out.data[row * out.width + x] = weighted(tall, 0, 1, Math.floor(x / scale), width, taps);
    }
  }
  return out;
}

// Mean and unbiased variance of each channel.
function statistics({ data, height, width }, clipped) {
  const count = height * width;
  return Array.from({ length: CHANNELS }, (_, channel) => {
    const plane = data.subarray(channel * count, (channel + 1) * count);
    let sum = 0;
    for (const x of plane) sum += clipped ? clip(x) : x;
    const mean = sum / count;
    let squares = 0;
    for (const x of plane) squares += ((clipped ? clip(x) : x) - mean) ** 2;
    return { mean, variance: squares / (count - 1) };
  });
}

// The picture with the channels' mean and deviation of another.
function matched(picture, clipped, eps, wanted) {
  const own = statistics(picture, clipped);
  const count = picture.height * picture.width;
  for (let channel = 0; channel < CHANNELS; channel++) {
    const deviation = Math.sqrt(own[channel].variance + eps);
    const ratio = Math.sqrt(wanted[channel].variance + eps) / deviation;
    const gain = deviation < FLAT ? 0 : fround(ratio);
    const mean = fround(own[channel].mean);
    const target = fround(wanted[channel].mean);
    const plane = picture.data.subarray(channel * count, (channel + 1) * count);
    for (let i = 0; i < count; i++) {
      const x = clipped ? clip(plane[i]) : plane[i];
      plane[i] = fround(fround(x - mean) * gain) + target;
    }
  }
  return picture;
}

// Five blurs by [1, 2, 1] / 4 along an axis of a plane, at the DISTANCES, with the edges repeated.
// `lines` lines of `side` pixels; pixels of a line are `step` apart, lines begin `next` apart.
function blur(plane, lines, next, side, step) {
  let from = new Float32Array(side);
  let to = new Float32Array(side);
  for (let line = 0; line < lines; line++) {
    const start = line * next;
    for (let i = 0; i < side; i++) from[i] = plane[start + i * step];
    for (const d of DISTANCES) {
      for (let i = 0; i < side; i++) {
        const before = fround(from[i] + from[clamp(i - d, side)]);
        to[i] = fround(from[clamp(i + d, side)] + from[i]) + before;
      }
      [from, to] = [to, from];
    }
    for (let i = 0; i < side; i++) plane[start + i * step] = from[i] * GAIN;
  }
}

// High frequencies of the clipped picture over the low frequency of the enlarged input.
function wavelet(picture, lr, scale) {
  const { data, height, width } = picture;
  const count = height * width;
  const low = enlarge(lr, scale).data;
  for (let i = 0; i < data.length; i++) {
    data[i] = clip(data[i]);
    low[i] -= data[i];
  }
  for (let channel = 0; channel < CHANNELS; channel++) {
    const plane = low.subarray(channel * count, (channel + 1) * count);
    blur(plane, height, width, width, 1);
    blur(plane, width, 1, height, width);
  }
  for (let i = 0; i < data.length; i++) data[i] += low[i];
  return picture;
}

// The luma of the clipped picture with the chroma of the enlarged input.
function ycbcr(picture, lr, scale) {
  const source = enlarge(lr, scale).data;
  const { data, height, width } = picture;
  const count = height * width;
  for (let i = 0; i < count; i++) {
    let luma = 0;
    for (let channel = 0; channel < CHANNELS; channel++) {
      const at = channel * count + i;
      luma = fround(luma + fround(LUMA[channel] * fround(clip(data[at]) - source[at])));
    }
    for (let at = i; at < data.length; at += count) data[at] = source[at] + luma;
  }
  return picture;
}

// Name of a correction -> (picture, lr, scale) -> the picture, changed in place. Values may leave
// [0, 1] by it.
export const FIXES = {
  none: (picture) => picture,
  adain: (picture, lr, scale) =>
    matched(picture, true, 1e-5, statistics(enlarge(lr, scale), false)),
  mean_std: (picture, lr) => matched(picture, false, 0, statistics(lr, false)),
  wavelet,
  ycbcr,
};

// float -> [height, width, 4] bytes, clipped and rounded, opaque.
export function toBytes({ data, height, width }) {
  const count = height * width;
  const bytes = new Uint8ClampedArray(4 * count);
  for (let i = 0; i < count; i++) {
    for (let channel = 0; channel < CHANNELS; channel++) {
      bytes[4 * i + channel] = rint(fround(clip(data[channel * count + i]) * WHITE));
    }
    bytes[4 * i + 3] = WHITE;
  }
  return bytes;
}

// [height, width, 4] bytes -> float in [0, 1]; alpha is dropped.
export function fromBytes(bytes, height, width) {
  const made = image(height, width);
  const count = height * width;
  for (let i = 0; i < count; i++) {
    for (let channel = 0; channel < CHANNELS; channel++) {
      made.data[channel * count + i] = bytes[4 * i + channel] / WHITE;
    }
  }
  return made;
}

// From `plain`, the bytes of the enlarged input, at strength 0 to `result` at 1.
export function blended(result, plain, strength) {
  if (strength === 1) return result;
  const share = fround(strength);
  const rest = fround(1 - strength);
  const mixed = new Uint8ClampedArray(result.length);
  for (let i = 0; i < result.length; i++) {
    mixed[i] = rint(fround(fround(result[i] * share) + fround(plain[i] * rest)));
  }
  return mixed;
}
