// Bicubic enlargement by a whole factor: pixel centres aligned, edges repeated.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "image.hpp"

namespace sr_kit {

struct Tap {
  int offset;  // of the input pixel, from the one that the output pixel lies in
  float weight;
};
using Taps = std::vector<Tap>;

// Keys' kernel with a = -0.75.
inline double cubic(double t) {
  t = std::abs(t);
  if (t <= 1) return 1.25 * t * t * t - 2.25 * t * t + 1;
  if (t < 2) return -0.75 * (t * t * t - 5 * t * t + 8 * t - 4);
  return 0;
}

// The taps of each of `scale` output pixels in an input pixel; what has the weight 0 is left out.
inline std::vector<Taps> phases(int scale) {
  std::vector<Taps> all(scale);
  for (int phase = 0; phase < scale; phase++) {
    const double place = (phase + 0.5) / scale - 0.5;
    for (int k = -2; k <= 2; k++) {
      const double weight = cubic(k - place);
      if (weight != 0) all[phase].push_back({k, static_cast<float>(weight)});
    }
  }
  return all;
}

// One row of the enlargement: `line` is that of the input, already enlarged downwards.
inline void widen(const float* line, int width, const std::vector<Taps>& steps, float* out) {
  const int scale = static_cast<int>(steps.size());
  for (int x = 0; x < width; x++) {
    for (int phase = 0; phase < scale; phase++) {
      const Taps& taps = steps[phase];
      float total = taps[0].weight * line[clamp_index(x + taps[0].offset, width)];
      for (std::size_t k = 1; k < taps.size(); k++) {
        total += taps[k].weight * line[clamp_index(x + taps[k].offset, width)];
      }
      out[x * scale + phase] = total;
    }
  }
}

// Enlarges one image, row by row.
class Enlarger {
 public:
  // The image must outlive this.
  Enlarger(const Image& lr, int scale)
      : lr_(lr), scale_(scale), steps_(phases(scale)), line_(lr.width) {}

  int height() const { return lr_.height * scale_; }
  int width() const { return lr_.width * scale_; }

  // Row `y` of a channel into `out`, which has width() floats.
  void row(int channel, int y, float* out) {
    const Taps& taps = steps_[y % scale_];
    for (std::size_t k = 0; k < taps.size(); k++) {
      const int place = clamp_index(y / scale_ + taps[k].offset, lr_.height);
      const float* from = lr_.row(channel, place);
      for (int x = 0; x < lr_.width; x++) {
        const float term = taps[k].weight * from[x];
        line_[x] = k == 0 ? term : line_[x] + term;
      }
    }
    widen(line_.data(), lr_.width, steps_, out);
  }

 private:
  const Image& lr_;
  int scale_;
  std::vector<Taps> steps_;
  std::vector<float> line_;
};

inline Image enlarge(const Image& lr, int scale) {
  Enlarger enlarger(lr, scale);
  Image out(enlarger.height(), enlarger.width());
  for (int channel = 0; channel < CHANNELS; channel++) {
    for (int y = 0; y < out.height; y++) enlarger.row(channel, y, out.row(channel, y));
  }
  return out;
}

}  // namespace sr_kit
