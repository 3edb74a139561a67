// Corrections of an image's colours by its input, over the whole image at once.
#pragma once

#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "enlarge.hpp"
#include "image.hpp"

namespace sr_kit {

constexpr int DISTANCES[] = {1, 2, 4, 8, 16};  // of the blurs of the wavelet correction
constexpr float GAIN = 1.0f / 1024;            // of the blurs along one axis; they are sums
constexpr double FLAT = 1e-6;                  // a channel of a smaller deviation takes the mean
constexpr float LUMA[] = {0.299f, 0.587f, 0.114f};  // of red, green and blue (BT.601)

// Mean and unbiased variance of many values, a row at a time.
class Statistics {
 public:
  void add(const float* values, int count) {
    double sum = 0;
    for (int i = 0; i < count; i++) sum += values[i];
    const double mean = sum / count;
    double squares = 0;
    for (int i = 0; i < count; i++) squares += (values[i] - mean) * (values[i] - mean);
    const double total = count_ + count;
    const double shift = mean - mean_;
    squares_ += squares + shift * shift * (count_ * count / total);
    mean_ += shift * (count / total);
    count_ = total;
  }
  double mean() const { return mean_; }
  double variance() const { return squares_ / (count_ - 1); }

 private:
  double count_ = 0;
  double mean_ = 0;
  double squares_ = 0;
};

using OfChannels = std::array<Statistics, CHANNELS>;

inline OfChannels statistics(const Image& image) {
  OfChannels all;
  for (int channel = 0; channel < CHANNELS; channel++) {
    for (int y = 0; y < image.height; y++) all[channel].add(image.row(channel, y), image.width);
  }
  return all;
}

inline OfChannels statistics_of_enlargement(const Image& lr, int scale) {
  Enlarger enlarger(lr, scale);
  std::vector<float> row(enlarger.width());
  OfChannels all;
  for (int channel = 0; channel < CHANNELS; channel++) {
    for (int y = 0; y < enlarger.height(); y++) {
      enlarger.row(channel, y, row.data());
      all[channel].add(row.data(), enlarger.width());
    }
  }
  return all;
}

inline void clip_all(Image& image) {
  for (float& x : image.data) x = clip(x);
}

// Give the channels the mean and deviation of another image; `eps` is added to both variances.
inline void match(Image& image, const OfChannels& wanted, double eps) {
  const OfChannels own = statistics(image);
  for (int channel = 0; channel < CHANNELS; channel++) {
    const double deviation = std::sqrt(own[channel].variance() + eps);
    const bool is_flat = deviation < FLAT;
    const double ratio = is_flat ? 0 : std::sqrt(wanted[channel].variance() + eps) / deviation;
    const float gain = static_cast<float>(ratio);
    const float mean = static_cast<float>(own[channel].mean());
    const float target = static_cast<float>(wanted[channel].mean());
    float* plane = image.plane(channel);
    for (std::size_t i = 0; i < image.plane_size(); i++) {
      const float scaled = (plane[i] - mean) * gain;
      plane[i] = scaled + target;
    }
  }
}

// Five blurs by [1, 2, 1] / 4 of a line, at the DISTANCES, with its ends repeated.
class Blur {
 public:
  explicit Blur(int side) : from_(side), to_(side) {}

  // In place; pixels of the line are `step` apart.
  void apply(float* line, std::size_t step) {
    const int side = static_cast<int>(from_.size());
    for (int i = 0; i < side; i++) from_[i] = line[i * step];
    for (const int d : DISTANCES) {
      for (int i = 0; i < side; i++) {
        const float before = from_[i] + from_[clamp_index(i - d, side)];
        const float behind = from_[clamp_index(i + d, side)] + from_[i];
        to_[i] = behind + before;
      }
      from_.swap(to_);
    }
    for (int i = 0; i < side; i++) line[i * step] = from_[i] * GAIN;
  }

 private:
  std::vector<float> from_;
  std::vector<float> to_;
};

// High frequencies of the clipped image over the low frequency of the enlarged input.
inline void wavelet(Image& image, const Image& lr, int scale) {
  clip_all(image);
  Enlarger enlarger(lr, scale);
  const int height = image.height;
  const int width = image.width;
  std::vector<float> low(image.plane_size());
  Blur along_row(width);
  Blur along_column(height);
  for (int channel = 0; channel < CHANNELS; channel++) {
    float* plane = image.plane(channel);
    for (int y = 0; y < height; y++) {
      float* line = low.data() + static_cast<std::size_t>(y) * width;
      enlarger.row(channel, y, line);
      for (int x = 0; x < width; x++) line[x] -= plane[static_cast<std::size_t>(y) * width + x];
      along_row.apply(line, 1);
    }
    for (int x = 0; x < width; x++) along_column.apply(low.data() + x, width);
    for (std::size_t i = 0; i < low.size(); i++) plane[i] += low[i];
  }
}

// The luma of the clipped image with the chroma of the enlarged input.
inline void ycbcr(Image& image, const Image& lr, int scale) {
  Enlarger enlarger(lr, scale);
  Image source(1, image.width);
  for (int y = 0; y < image.height; y++) {
    for (int channel = 0; channel < CHANNELS; channel++) {
      enlarger.row(channel, y, source.plane(channel));
    }
    for (int x = 0; x < image.width; x++) {
      float luma = 0;
      for (int channel = 0; channel < CHANNELS; channel++) {
        luma += LUMA[channel] * (clip(image.row(channel, y)[x]) - source.plane(channel)[x]);
      }
      for (int channel = 0; channel < CHANNELS; channel++) {
        image.row(channel, y)[x] = source.plane(channel)[x] + luma;
      }
    }
  }
}

// Correct an image in place by its input, `scale` times smaller. Values may leave [0, 1] by it.
//
//   name  adain, mean_std, wavelet, ycbcr or none
inline void correct(const std::string& name, Image& image, const Image& lr, int scale) {
  if (name == "adain") {
    clip_all(image);
    match(image, statistics_of_enlargement(lr, scale), 1e-5);
  } else if (name == "mean_std") {
    match(image, statistics(lr), 0);
  } else if (name == "wavelet") {
    wavelet(image, lr, scale);
  } else if (name == "ycbcr") {
    ycbcr(image, lr, scale);
  } else if (name != "none") {
    throw Error("the colour correction '" + name + "' is unknown");
  }
}

}  // namespace sr_kit
