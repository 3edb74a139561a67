// One tile through the graphs, with the sums of the process between them.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "description.hpp"
#include "image.hpp"

namespace sr_kit {

// float32 in `floats`, or int64 in `integers`, as the graph's port says.
struct Tensor {
  std::vector<std::int64_t> shape;
  std::vector<float> floats;
  std::vector<std::int64_t> integers;
};
using Inputs = std::vector<const Tensor*>;

// Runs a graph: reads the inputs in their order, and fills the outputs, which have their size.
using Run = std::function<void(const Graph&, const Inputs&, std::vector<Tensor>&)>;
using Values = std::map<std::string, Tensor>;

inline std::size_t count_of(const std::vector<std::int64_t>& shape) {
  std::size_t count = 1;
  for (const std::int64_t side : shape) count *= static_cast<std::size_t>(side);
  return count;
}

// A tensor of zeros.
inline Tensor zeros(const Port& port) {
  Tensor tensor{port.shape, {}, {}};
  if (port.is_integer) {
    tensor.integers.assign(count_of(port.shape), 0);
  } else {
    tensor.floats.assign(count_of(port.shape), 0.0f);
  }
  return tensor;
}

inline const Tensor& value_of(const Values& values, const std::string& name) {
  const auto found = values.find(name);
  if (found == values.end()) throw Error("no graph of this model makes '" + name + "'");
  return found->second;
}

// The sum of factor * value, in float32 and in the order that is given.
inline Tensor weighted_sum(const Factors& factors, const Values& values) {
  if (factors.empty()) throw Error("a sum of this model has no factors");
  Tensor total = value_of(values, factors[0].name);
  const float first = static_cast<float>(factors[0].value);
  for (float& x : total.floats) x *= first;
  for (std::size_t k = 1; k < factors.size(); k++) {
    const Tensor& term = value_of(values, factors[k].name);
    if (term.floats.size() != total.floats.size()) {
      throw Error("'" + factors[k].name + "' is not of the shape of the sum");
    }
    const float factor = static_cast<float>(factors[k].value);
    for (std::size_t i = 0; i < total.floats.size(); i++) {
      const float scaled = factor * term.floats[i];
      total.floats[i] += scaled;
    }
  }
  return total;
}

inline const std::string& value_for(const Others& others, const std::string& name) {
  for (const Other& one : others) {
    if (one.name == name) return one.value;
  }
  return name;
}

// Run a graph, and add what it puts out to the values.
inline void run_graph(const Graph& graph, const Run& run, Values& values,
                      const Others& instead = {}, const Others& makes = {}) {
  Inputs inputs;
  for (const Port& port : graph.inputs) {
    inputs.push_back(&value_of(values, value_for(instead, port.name)));
  }
  std::vector<Tensor> outputs;
  for (const Port& port : graph.outputs) outputs.push_back(zeros(port));
  run(graph, inputs, outputs);
  for (std::size_t i = 0; i < outputs.size(); i++) {
    const Port& port = graph.outputs[i];
    if (outputs[i].floats.size() != count_of(port.shape)) {
      throw Error("graph " + graph.name + " gave '" + port.name + "' in another size");
    }
    values[value_for(makes, port.name)] = std::move(outputs[i]);
  }
}

// The clean latent of a process of several steps.
inline Tensor walk(const Model& model, const Run& run, Values values) {
  Tensor state = weighted_sum(model.start, values);
  for (std::size_t number = 0; number < model.steps.size(); number++) {
    const Step& step = model.steps[number];
    values["state"] = state;
    values["timestep"] = Tensor{{1}, {}, {step.timestep}};
    for (const Graph& graph : model.each_step) run_graph(graph, run, values, step.instead);
    Tensor next = weighted_sum(step.factors, values);
    values["state_" + std::to_string(number)] = std::move(state);
    values["prediction_" + std::to_string(number)] = value_of(values, "prediction");
    if (!model.between.empty() && number + 1 < model.steps.size()) {
      values["clean"] = weighted_sum(step.clean, values);
      for (const Between& call : model.between) {
        run_graph(call.graph, run, values, call.instead, call.makes);
      }
    }
    state = std::move(next);
  }
  return state;
}

// A tile of the low-resolution image -> the same, `scale` times larger.
inline Image run_tile(const Model& model, const Run& run, const Image& lr) {
  Values values;
  for (const Port& port : model.zeros) values[port.name] = zeros(port);
  values["lr"] = Tensor{{1, CHANNELS, lr.height, lr.width}, lr.data, {}};
  for (const Graph& graph : model.before) run_graph(graph, run, values);
  if (!model.is_whole) {
    values["clean_latent"] = model.each_step.empty() ? weighted_sum(model.clean_latent, values)
                                                     : walk(model, run, values);
  }
  for (const Graph& graph : model.after) run_graph(graph, run, values);
  const std::string made = model.is_whole ? model.before[0].outputs[0].name : "image";
  Image image(lr.height * model.scale, lr.width * model.scale);
  const Tensor& result = value_of(values, made);
  if (result.floats.size() != image.data.size()) {
    throw Error("the model gave an image of another size");
  }
  image.data = result.floats;
  return image;
}

}  // namespace sr_kit
