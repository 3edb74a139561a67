// From the plain enlargement of an image to the model's whole result, in 8-bit pixels.
#pragma once

#include <vector>

#include "enlarge.hpp"
#include "image.hpp"
#include "tiles.hpp"

namespace sr_kit {

// A result between the enlargement of its input, at strength 0, and itself, at 1.
inline Bytes blended(Bytes result, const Image& lr, double strength, int scale) {
  if (!(strength >= 0 && strength <= 1)) throw Error("strength is a number from 0 to 1");
  if (result.height != lr.height * scale || result.width != lr.width * scale) {
    throw Error("the result is not as many times larger than its input as the model says");
  }
  if (strength == 1) return result;
  const float share = static_cast<float>(strength);
  const float rest = static_cast<float>(1 - strength);
  Enlarger enlarger(lr, scale);
  std::vector<float> row(result.width);
  for (int channel = 0; channel < CHANNELS; channel++) {
    for (int y = 0; y < result.height; y++) {
      enlarger.row(channel, y, row.data());
      const std::size_t start = static_cast<std::size_t>(y) * result.width;
      for (int x = 0; x < result.width; x++) {
        std::uint8_t& pixel = result.data[CHANNELS * (start + x) + channel];
        const std::uint8_t plain = to_byte(row[x]);
        const float own = pixel * share;
        const float other = plain * rest;
        pixel = strength == 0 ? plain : static_cast<std::uint8_t>(round_to_even(own + other));
      }
    }
  }
  return result;
}

// The bicubic enlargement, which invents nothing.
inline Bytes enlarged(const Image& lr, int scale) { return to_bytes(enlarge(lr, scale)); }

// Upscale an image to 8-bit pixels at a strength from 0 to 1. At 0 no graph runs.
inline Bytes upscale_bytes(const Model& model, const Image& lr, const Run& run,
                           double strength = 1, const Watch& watch = nullptr) {
  if (strength == 0) return enlarged(lr, model.scale);
  return blended(to_bytes(upscale(model, lr, run, watch)), lr, strength, model.scale);
}

}  // namespace sr_kit
