// sr_kit_c.h by sr_kit.hpp and the constants of model.hpp.

#include "sr_kit_c.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

#include "model.hpp"

namespace {

using sr_kit::Graph;
using sr_kit::Image;
using sr_kit::Inputs;
using sr_kit::Tensor;

std::vector<const Graph*> all_graphs() {
  std::vector<const Graph*> all;
  const sr_kit::Model& model = sr_kit::model();
  for (const auto* stage : {&model.before, &model.each_step, &model.after}) {
    for (const Graph& graph : *stage) all.push_back(&graph);
  }
  for (const sr_kit::Between& call : model.between) {
    const bool known = std::any_of(all.begin(), all.end(), [&](const Graph* graph) {
      return graph->name == call.graph.name;
    });
    if (!known) all.push_back(&call.graph);
  }
  return all;
}

const Graph* graph_of(int number) {
  const auto all = all_graphs();
  return number >= 0 && number < static_cast<int>(all.size()) ? all[number] : nullptr;
}

sr_kit::Run through(sr_kit_run run, void* context) {
  return [run, context](const Graph& graph, const Inputs& given, std::vector<Tensor>& made) {
    std::vector<sr_kit_input> inputs;
    for (std::size_t i = 0; i < given.size(); i++) {
      const Tensor& x = *given[i];
      const bool is_integer = !x.integers.empty();
      inputs.push_back({graph.inputs[i].name.c_str(), x.shape.data(),
                        static_cast<int>(x.shape.size()), is_integer ? nullptr : x.floats.data(),
                        is_integer ? x.integers.data() : nullptr});
    }
    std::vector<sr_kit_output> outputs;
    for (std::size_t i = 0; i < made.size(); i++) {
      Tensor& y = made[i];
      outputs.push_back({graph.outputs[i].name.c_str(), y.shape.data(),
                         static_cast<int>(y.shape.size()), y.floats.data(), y.floats.size()});
    }
    const int code = run(context, graph.name.c_str(), inputs.data(),
                         static_cast<int>(inputs.size()), outputs.data(),
                         static_cast<int>(outputs.size()));
    if (code != 0) {
      throw sr_kit::Error("graph " + graph.name + " failed with code " + std::to_string(code));
    }
  };
}

template <typename Work>
sr_kit_end told(char* message, std::size_t room, Work work) {
  std::string why;
  sr_kit_end end = SR_KIT_FAILED;
  try {
    work();
    return SR_KIT_DONE;
  } catch (const sr_kit::Cancelled& error) {
    why = error.what();
    end = SR_KIT_CANCELLED;
  } catch (const std::bad_alloc&) {
    why = "the memory does not do for a picture of this size";
  } catch (const std::exception& error) {
    why = error.what();
  }
  if (message != nullptr && room > 0) {
    const std::size_t count = std::min(why.size(), room - 1);
    std::memcpy(message, why.data(), count);
    message[count] = 0;
  }
  return end;
}

}  // namespace

int sr_kit_scale(void) { return sr_kit::model().scale; }

int sr_kit_graph_count(void) { return static_cast<int>(all_graphs().size()); }

const char* sr_kit_graph_name(int number) {
  const Graph* graph = graph_of(number);
  return graph == nullptr ? nullptr : graph->name.c_str();
}

const char* sr_kit_graph_file(int number) {
  const Graph* graph = graph_of(number);
  return graph == nullptr ? nullptr : graph->file.c_str();
}

sr_kit_end sr_kit_upscale(const uint8_t* pixels, int height, int width, size_t stride,
                          sr_kit_run run, sr_kit_watch watch, void* context, uint8_t* result,
                          char* message, size_t room) {
  return told(message, room, [&] {
    const Image lr = sr_kit::from_bytes(pixels, height, width, 4, stride);
    sr_kit::Watch told_of;
    if (watch != nullptr) {
      told_of = [&](int done, int all) { return watch(context, done, all) != 0; };
    }
    const Image made = sr_kit::upscale(sr_kit::model(), lr, through(run, context), told_of);
    sr_kit::to_rgba(sr_kit::to_bytes(made), result);
  });
}

sr_kit_end sr_kit_blend(const uint8_t* pixels, int height, int width, size_t stride,
                        const uint8_t* result, double strength, uint8_t* mixed, char* message,
                        size_t room) {
  return told(message, room, [&] {
    const Image lr = sr_kit::from_bytes(pixels, height, width, 4, stride);
    const int scale = sr_kit::model().scale;
    sr_kit::Bytes bytes = sr_kit::from_rgba(result, height * scale, width * scale);
    sr_kit::to_rgba(sr_kit::blended(std::move(bytes), lr, strength, scale), mixed);
  });
}
