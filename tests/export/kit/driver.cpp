// The kit's arithmetic for ctypes, with stand-ins for networks as support/host_manifests.py has.

#include <cstdint>
#include <cstring>
#include <string>
#include <utility>

#include "models.hpp"

namespace {

using sr_kit::Graph;
using sr_kit::Image;
using sr_kit::Inputs;
using sr_kit::Model;
using sr_kit::Tensor;

std::string message;

void repeat(const Tensor& from, Tensor& to, int scale) {
  const std::int64_t width = from.shape[3] * scale;
  const std::int64_t height = from.shape[2] * scale;
  for (std::size_t i = 0; i < to.floats.size(); i++) {
    const std::int64_t x = i % width;
    const std::int64_t y = i / width % height;
    const std::int64_t channel = i / width / height;
    const std::int64_t place =
        (channel * from.shape[2] + y / scale) * from.shape[3] + x / scale;
    to.floats[i] = from.floats[place] + static_cast<float>((x + y) % 5) / 64;
  }
}

// Every fourth pixel of a decoded image, blended with the input.
void blend(const Tensor& decoded, const Tensor& lr, Tensor& out, int scale) {
  const std::int64_t width = lr.shape[3];
  for (std::size_t i = 0; i < out.floats.size(); i++) {
    const std::int64_t row = i / width, column = i % width;  // rows of all channels
    const float pixel = decoded.floats[(row * scale * width + column) * scale];
    out.floats[i] = (pixel + lr.floats[i]) / 2;
  }
}

void run(const Model& model, const Graph& graph, const Inputs& inputs, Tensor& out) {
  const Tensor& first = *inputs[0];
  if (graph.name == "decoder" || graph.name == "model") {
    repeat(first, out, model.scale);
    return;
  }
  if (graph.name == "refine") {
    blend(first, *inputs[1], out, model.scale);
    return;
  }
  float more = 0;
  if (graph.name == "encoder" && inputs.size() > 1) {
    for (const float x : inputs[1]->floats) more += x + 1;  // kept of references: zeros
    more -= static_cast<float>(inputs[1]->floats.size());
  }
  if (graph.name == "denoiser" && inputs.size() > 1) {
    more = static_cast<float>(inputs[1]->integers[0]) / 1024;
  }
  const bool squares = graph.name == "denoiser" || graph.name == "hint";
  for (std::size_t i = 0; i < out.floats.size(); i++) {
    const float x = first.floats[i];
    const float made = squares ? x * x : x;
    out.floats[i] = made + more;
    if (graph.name == "denoiser" && inputs.size() > 2) out.floats[i] += inputs[2]->floats[i] / 4;
  }
}

Image image_of(const float* data, int height, int width) {
  Image image(height, width);
  std::memcpy(image.data.data(), data, image.data.size() * sizeof(float));
  return image;
}

void put(const Image& image, float* out) {
  std::memcpy(out, image.data.data(), image.data.size() * sizeof(float));
}

template <typename Work>
const char* told(Work work) {
  try {
    work();
    return nullptr;
  } catch (const sr_kit::Error& error) {
    message = error.what();
    return message.c_str();
  }
}

}  // namespace

// Each gives null, or why there is no result.
extern "C" {

const char* kit_enlarge(const float* lr, int height, int width, int scale, float* out) {
  return told([&] { put(sr_kit::enlarge(image_of(lr, height, width), scale), out); });
}

const char* kit_correct(const char* name, float* picture, const float* lr, int height, int width,
                        int scale) {
  return told([&] {
    Image image = image_of(picture, height * scale, width * scale);
    sr_kit::correct(name, image, image_of(lr, height, width), scale);
    put(image, picture);
  });
}

const char* kit_bytes(const float* picture, int height, int width, std::uint8_t* out) {
  return told([&] {
    const sr_kit::Bytes bytes = sr_kit::to_bytes(image_of(picture, height, width));
    std::memcpy(out, bytes.data.data(), bytes.data.size());
  });
}

const char* kit_floats(const std::uint8_t* pixels, int height, int width, int channels,
                       std::size_t stride, float* out) {
  return told([&] { put(sr_kit::from_bytes(pixels, height, width, channels, stride), out); });
}

const char* kit_blend(std::uint8_t* result, const float* lr, int height, int width, int scale,
                      double strength) {
  return told([&] {
    sr_kit::Bytes bytes{{}, height * scale, width * scale};
    bytes.data.assign(result, result + sr_kit::CHANNELS * height * width * scale * scale);
    bytes = sr_kit::blended(std::move(bytes), image_of(lr, height, width), strength, scale);
    std::memcpy(result, bytes.data.data(), bytes.data.size());
  });
}

// `fault` is none, "infinite" (the networks fail) or "cancel" (after the first tile).
const char* kit_upscale(const char* name, const float* lr, int height, int width, double strength,
                        const char* fault, float* floats, std::uint8_t* bytes) {
  return told([&] {
    const Model& model = kit_models().at(name)();
    const Image image = image_of(lr, height, width);
    const std::string wrong = fault;
    const sr_kit::Run network = [&](const Graph& graph, const Inputs& inputs,
                                    std::vector<Tensor>& outputs) {
      run(model, graph, inputs, outputs[0]);
      if (wrong == "infinite") outputs[0].floats.back() = INFINITY;
    };
    const sr_kit::Watch watch = [&](int done, int) { return wrong != "cancel" || done < 1; };
    put(sr_kit::upscale(model, image, network, watch), floats);
    const sr_kit::Bytes made = sr_kit::upscale_bytes(model, image, network, strength);
    std::memcpy(bytes, made.data.data(), made.data.size());
  });
}
}
