// An image of any size through graphs of one size: reflection, tiles, Gaussian weights.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "chain.hpp"
#include "colour.hpp"
#include "description.hpp"
#include "image.hpp"

namespace sr_kit {

constexpr double VARIANCE = 0.01;         // of a tile's weights, in units of the tile
constexpr double LEAST_EXPONENT = -600;   // of a weight: it is never 0

// Told how many tiles are done, of how many. False ends the picture: `Cancelled` is thrown.
using Watch = std::function<bool(int, int)>;

// Where tiles lie along an axis, in low-resolution pixels.
struct Axis {
  int tile;
  int step;
  int count;

  int size() const { return tile + (count - 1) * step; }
};

inline Axis along_axis(const Model& model, int tile, int side) {
  const int whole = side + 2 * model.margin;
  const int overlap = std::min(model.overlap, tile / 2);
  const int step = std::max(model.align, (tile - overlap) / model.align * model.align);
  const int more = whole > tile ? (whole - tile + step - 1) / step : 0;
  return {tile, step, more + 1};
}

// The pixel that a place beyond an edge mirrors; edge pixels are not repeated.
inline int mirrored(int index, int side) {
  if (side == 1) return 0;
  const int period = 2 * (side - 1);
  const int place = (index % period + period) % period;
  return place < side ? place : period - place;
}

// A part of an image that goes on as its reflection beyond the edges.
inline Image piece(const Image& lr, int top, int left, int height, int width) {
  Image made(height, width);
  for (int channel = 0; channel < CHANNELS; channel++) {
    for (int y = 0; y < height; y++) {
      const float* from = lr.row(channel, mirrored(top + y, lr.height));
      float* to = made.row(channel, y);
      for (int x = 0; x < width; x++) to[x] = from[mirrored(left + x, lr.width)];
    }
  }
  return made;
}

// The share of each tile along an axis in its pixels of the output; at a pixel they sum to 1.
inline std::vector<std::vector<double>> shares(const Axis& axis, int scale) {
  const int side = axis.tile * scale;
  const int apart = axis.step * scale;
  const double centre = (side - 1) / 2.0;
  std::vector<double> bell(side);
  for (int i = 0; i < side; i++) {
    const double distance = (i - centre) / side;
    bell[i] = std::exp(std::max(-(distance * distance) / (2 * VARIANCE), LEAST_EXPONENT));
  }
  std::vector<double> total((axis.count - 1) * static_cast<std::size_t>(apart) + side);
  for (int n = 0; n < axis.count; n++) {
    for (int i = 0; i < side; i++) total[n * static_cast<std::size_t>(apart) + i] += bell[i];
  }
  std::vector<std::vector<double>> all(axis.count, bell);
  for (int n = 0; n < axis.count; n++) {
    for (int i = 0; i < side; i++) all[n][i] /= total[n * static_cast<std::size_t>(apart) + i];
  }
  return all;
}

inline void check_finite(const Image& image) {
  for (const float x : image.data) {
    if (!std::isfinite(x)) throw Error("the model gave values that are not finite");
  }
}

// Add a tile to the picture, weighed by its shares of rows and of columns.
inline void add_tile(Image& picture, const Image& tile, int top, int left,
                     const std::vector<double>& vertical, const std::vector<double>& horizontal) {
  const int last_row = std::min(tile.height, picture.height - top);
  const int last_column = std::min(tile.width, picture.width - left);
  for (int channel = 0; channel < CHANNELS; channel++) {
    for (int y = std::max(0, -top); y < last_row; y++) {
      const float* from = tile.row(channel, y);
      float* to = picture.row(channel, top + y);
      for (int x = std::max(0, -left); x < last_column; x++) {
        const float weight = static_cast<float>(vertical[y] * horizontal[x]);
        const float term = from[x] * weight;
        to[left + x] += term;
      }
    }
  }
}

// Upscale an image in tiles, and correct its colours once over the whole.
//
// It holds the picture in float32: 12 bytes for each pixel of the result, and 4 more for `wavelet`.
// Values may leave [0, 1].
inline Image upscale(const Model& model, const Image& lr, const Run& run,
                     const Watch& watch = nullptr) {
  const Axis rows = along_axis(model, model.tile_height, lr.height);
  const Axis columns = along_axis(model, model.tile_width, lr.width);
  const auto vertical = shares(rows, model.scale);
  const auto horizontal = shares(columns, model.scale);
  const int tiles = rows.count * columns.count;
  Image picture(lr.height * model.scale, lr.width * model.scale);
  for (int n = 0; n < tiles; n++) {
    if (watch && !watch(n, tiles)) throw Cancelled();
    const int row = n / columns.count;
    const int column = n % columns.count;
    const int top = row * rows.step - model.margin;
    const int left = column * columns.step - model.margin;
    const Image tile = run_tile(model, run, piece(lr, top, left, rows.tile, columns.tile));
    check_finite(tile);
    add_tile(picture, tile, top * model.scale, left * model.scale, vertical[row],
             horizontal[column]);
  }
  if (watch && !watch(tiles, tiles)) throw Cancelled();
  const bool is_tile = rows.size() == lr.height && columns.size() == lr.width;
  if (!(model.is_whole && is_tile)) {  // that graph corrected it already
    correct(tiles > 1 ? model.colour_fix_of_tiles : model.colour_fix, picture, lr, model.scale);
  }
  return picture;
}

}  // namespace sr_kit
