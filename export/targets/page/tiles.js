// A photograph of any size through graphs of one size: reflection, tiles, Gaussian weights, and one
// colour correction over the whole. The arithmetic is that of host/tiles.py in the same folder.

import { FIXES, image } from './colour.js';

const { fround } = Math;
const CHANNELS = 3;
const VARIANCE = 0.01; // of a tile's weights, in units of the tile
const LEAST_EXPONENT = -600; // of a weight: it is never 0

// What ends a picture before its time, as it was asked to.
export class Cancelled extends Error {}

function alongAxis(host, tile, side) {
  const whole = side + 2 * (host.margin ?? 0);
  const overlap = Math.min(host.overlap, Math.floor(tile / 2));
  const step = Math.max(host.align, Math.floor((tile - overlap) / host.align) * host.align);
  return { tile, step, count: Math.max(0, Math.ceil((whole - tile) / step)) + 1 };
}

// Where the tiles of a photograph lie, in its pixels: {tile, step, count} of rows and of columns,
// and the height and width with the reflection around.
export function grid(manifest, height, width) {
  const [rows, columns] = [height, width].map((side, axis) =>
    alongAxis(manifest.host, manifest.lr_size[axis], side),
  );
  const reach = ({ tile, step, count }) => tile + (count - 1) * step;
  return {
    rows,
    columns,
    margin: manifest.host.margin ?? 0,
    height: reach(rows),
    width: reach(columns),
    tiles: rows.count * columns.count,
  };
}

// The pixel that a place beyond an edge mirrors; edge pixels are not repeated.
function mirrored(index, side) {
  if (side === 1) return 0;
  const period = 2 * (side - 1);
  const place = ((index % period) + period) % period;
  return place < side ? place : period - place;
}

// A part of a photograph that goes on as its reflection beyond the edges.
export function piece(lr, top, left, height, width) {
  const made = image(height, width);
  for (let channel = 0; channel < CHANNELS; channel++) {
    for (let y = 0; y < height; y++) {
      const row = (channel * lr.height + mirrored(top + y, lr.height)) * lr.width;
      const start = (channel * height + y) * width;
      for (let x = 0; x < width; x++) {
        made.data[start + x] = lr.data[row + mirrored(left + x, lr.width)];
      }
    }
  }
  return made;
}

// The share that each tile along an axis has in its pixels of the output; at every pixel they sum
// to 1.
export function shares({ tile, step, count }, scale) {
  const side = tile * scale;
  const apart = step * scale;
  const centre = (side - 1) / 2;
  const total = new Float64Array((count - 1) * apart + side);
  const bell = Float64Array.from({ length: side }, (_, i) =>
    Math.exp(Math.max(-(((i - centre) / side) ** 2) / (2 * VARIANCE), LEAST_EXPONENT)),
  );
  for (let n = 0; n < count; n++) bell.forEach((x, i) => (total[n * apart + i] += x));
  return Array.from({ length: count }, (_, n) => bell.map((x, i) => x / total[n * apart + i]));
}

export function isFinite32(values) {
  for (let i = 0; i < values.length; i++) if (!Number.isFinite(values[i])) return false;
  return true;
}

// Add a tile to the picture, weighed by its shares of rows and of columns.
function addTile(picture, tile, top, left, vertical, horizontal) {
  for (let channel = 0; channel < CHANNELS; channel++) {
    for (let y = Math.max(0, -top); y < tile.height && top + y < picture.height; y++) {
      const from = (channel * tile.height + y) * tile.width;
      const to = (channel * picture.height + top + y) * picture.width + left;
      for (let x = Math.max(0, -left); x < tile.width && left + x < picture.width; x++) {
        picture.data[to + x] += fround(
          tile.data[from + x] * fround(vertical[y] * horizontal[x]),
        );
      }
    }
  }
}

// Upscale a photograph.
//
//   manifest  manifest.json
//   lr        an image (colour.js)
//   run       async image of a tile -> image, `scale` times larger
//   watch     async (tiles done, all tiles) between tiles; what it throws ends the picture
//
// Gives an image whose values may leave [0, 1].
export async function upscale(manifest, lr, run, watch = async () => {}) {
  const { scale, host } = manifest;
  const where = grid(manifest, lr.height, lr.width);
  const vertical = shares(where.rows, scale);
  const horizontal = shares(where.columns, scale);
  const picture = image(lr.height * scale, lr.width * scale);
  for (let n = 0; n < where.tiles; n++) {
    await watch(n, where.tiles);
    const row = Math.floor(n / where.columns.count);
    const column = n % where.columns.count;
    const top = row * where.rows.step - where.margin;
    const left = column * where.columns.step - where.margin;
    const tile = await run(piece(lr, top, left, where.rows.tile, where.columns.tile));
    if (!isFinite32(tile.data)) throw new Error('the model gave values that are not finite');
    addTile(picture, tile, top * scale, left * scale, vertical[row], horizontal[column]);
  }
  await watch(where.tiles, where.tiles);
  return FIXES[fixOf(manifest, where, lr)](picture, lr, scale);
}

function fixOf(manifest, where, lr) {
  const isWhole = where.height === lr.height && where.width === lr.width;
  if (isWhole && 'model' in manifest.graphs) return 'none'; // that graph corrected it already
  return where.tiles > 1 ? manifest.host.colour_fix_of_tiles : manifest.host.colour_fix;
}
