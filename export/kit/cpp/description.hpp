// What manifest.json says of a model, as plain values. model.hpp beside the kit holds them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace sr_kit {

// A tensor that goes into a graph or comes out of it.
struct Port {
  std::string name;
  std::vector<std::int64_t> shape;
  bool is_integer = false;  // int64; else float32
};

struct Graph {
  std::string name;
  std::string file;  // below the exported folder
  std::vector<Port> inputs;
  std::vector<Port> outputs;
  bool is_stored = false;  // no network: the file has the outputs, as little-endian float32
};

struct Factor {
  std::string name;  // of a value
  double value;
};
using Factors = std::vector<Factor>;

struct Other {
  std::string name;   // of a graph's input or output
  std::string value;  // that it reads or makes
};
using Others = std::vector<Other>;  // what is not listed is the value of its own name

struct Step {
  std::int64_t timestep;
  Factors factors;  // of the next state
  Others instead;   // of the graphs of the step
  Factors clean;    // of the clean latent that the step tells, where something runs behind it
};

// A graph that runs between two steps.
struct Between {
  Graph graph;
  Others instead;
  Others makes;
};

struct Model {
  int scale;
  int tile_height;  // of the graphs, in low-resolution pixels
  int tile_width;
  int overlap;  // pixels that tiles share at most
  int align;    // tiles begin at multiples of it
  int margin;   // pixels of reflection around the image
  std::string colour_fix;           // of an image that is one tile
  std::string colour_fix_of_tiles;  // of one of several
  bool is_whole;                    // one graph computes all, and corrects its own tile
  std::vector<Graph> before;        // the process, in running order
  std::vector<Graph> each_step;
  std::vector<Graph> after;
  Factors clean_latent;  // of a process of one step
  Factors start;         // of one of several: the first state
  std::vector<Step> steps;
  std::vector<Between> between;  // behind each step but the last, in running order
  std::vector<Port> zeros;  // inputs that are zero where no references are given
};

}  // namespace sr_kit
