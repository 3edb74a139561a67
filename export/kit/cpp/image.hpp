// Pixels, and how they become floats and bytes.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace sr_kit {

constexpr int CHANNELS = 3;
constexpr float WHITE = 255.0f;

// Why there is no picture; the message is one sentence.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A picture was ended before its time, as it was asked to.
class Cancelled : public Error {
 public:
  Cancelled() : Error("cancelled") {}
};

// Planes of red, green and blue: [3, height, width], values in about [0, 1].
struct Image {
  std::vector<float> data;
  int height = 0;
  int width = 0;

  Image() = default;
  Image(int rows, int columns) : height(rows), width(columns) {
    if (rows < 1 || columns < 1) throw Error("an image has no pixels");
    data.assign(CHANNELS * plane_size(), 0.0f);
  }

  std::size_t plane_size() const {
    return static_cast<std::size_t>(height) * static_cast<std::size_t>(width);
  }
  float* plane(int channel) { return data.data() + channel * plane_size(); }
  const float* plane(int channel) const { return data.data() + channel * plane_size(); }
  float* row(int channel, int y) { return plane(channel) + static_cast<std::size_t>(y) * width; }
  const float* row(int channel, int y) const {
    return plane(channel) + static_cast<std::size_t>(y) * width;
  }
};

// 8-bit pixels, row after row, red, green, blue each.
struct Bytes {
  std::vector<std::uint8_t> data;
  int height = 0;
  int width = 0;
};

inline float clip(float x) { return x < 0.0f ? 0.0f : x > 1.0f ? 1.0f : x; }

inline int clamp_index(int index, int side) {
  return index < 0 ? 0 : index >= side ? side - 1 : index;
}

// To the nearest whole number, halves to the even one, whatever the rounding mode of the thread is.
inline float round_to_even(float x) {
  const float low = std::floor(x);
  const float part = x - low;
  if (part != 0.5f) return part < 0.5f ? low : low + 1.0f;
  return std::fmod(low, 2.0f) == 0.0f ? low : low + 1.0f;
}

inline std::uint8_t to_byte(float x) {
  return static_cast<std::uint8_t>(round_to_even(clip(x) * WHITE));
}

// Pixels of `channels` bytes each, 3 or 4; the fourth, alpha, is dropped.
//
//   stride  bytes from one row to the next; 0 where rows follow one another
inline Image from_bytes(const std::uint8_t* pixels, int height, int width, int channels = CHANNELS,
                        std::size_t stride = 0) {
  if (channels < CHANNELS) throw Error("pixels have at least three bytes: red, green, blue");
  if (stride == 0) stride = static_cast<std::size_t>(width) * channels;
  Image image(height, width);
  for (int channel = 0; channel < CHANNELS; channel++) {
    for (int y = 0; y < height; y++) {
      const std::uint8_t* from = pixels + y * stride + channel;
      float* to = image.row(channel, y);
      for (int x = 0; x < width; x++) to[x] = from[static_cast<std::size_t>(x) * channels] / WHITE;
    }
  }
  return image;
}

// Clipped to [0, 1], rounded to nearest.
inline Bytes to_bytes(const Image& image) {
  Bytes bytes{std::vector<std::uint8_t>(image.data.size()), image.height, image.width};
  const std::size_t count = image.plane_size();
  for (int channel = 0; channel < CHANNELS; channel++) {
    const float* plane = image.plane(channel);
    for (std::size_t i = 0; i < count; i++) bytes.data[CHANNELS * i + channel] = to_byte(plane[i]);
  }
  return bytes;
}

// Into pixels of four bytes each, opaque; `stride` as for `from_bytes`.
inline void to_rgba(const Bytes& bytes, std::uint8_t* out, std::size_t stride = 0) {
  if (stride == 0) stride = static_cast<std::size_t>(bytes.width) * (CHANNELS + 1);
  const std::uint8_t* from = bytes.data.data();
  for (int y = 0; y < bytes.height; y++) {
    std::uint8_t* to = out + y * stride;
    for (int x = 0; x < bytes.width; x++) {
      for (int channel = 0; channel < CHANNELS; channel++) *to++ = *from++;
      *to++ = 255;
    }
  }
}

// The colours of pixels of four bytes each.
inline Bytes from_rgba(const std::uint8_t* pixels, int height, int width, std::size_t stride = 0) {
  if (stride == 0) stride = static_cast<std::size_t>(width) * (CHANNELS + 1);
  Bytes bytes{{}, height, width};
  bytes.data.reserve(static_cast<std::size_t>(height) * width * CHANNELS);
  for (int y = 0; y < height; y++) {
    const std::uint8_t* from = pixels + y * stride;
    for (int x = 0; x < width; x++, from += CHANNELS + 1) {
      bytes.data.insert(bytes.data.end(), from, from + CHANNELS);
    }
  }
  return bytes;
}

}  // namespace sr_kit
