// Options that several commands share: how to load a checkpoint, and how to draw tokens.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "client.h"

namespace commands {

struct LoadFlags {
  std::string directory;
  std::string device = "auto";       // auto, cpu, ref, cuda, cuda:N
  std::optional<int64_t> threads;    // 0: all physical cores, as without it
  std::string isa;                   // empty: the best there is
  std::string precision;             // empty: the library's default
  std::string kernel;                // of a GPU; empty: auto
  std::string load_quant;            // nf4 or fp4: quantize a float checkpoint while loading
  std::string merge_json;            // any option by name, and transformers' own key names

  void add_to(CLI::App* command, bool with_directory = true);
  client::Config config() const;
};

// Loads with a line of progress; Ctrl-C stops it.
client::Model load(const LoadFlags& flags);

struct SamplingFlags {
  std::optional<double> temperature, top_p, min_p, repetition_penalty;
  std::optional<int64_t> top_k, seed, context;
  std::vector<std::string> stop;

  void add_to(CLI::App* command);
  // What was not asked for, here or by --options, is as the model's generation_config.json says.
  client::Session make_session(nbl_model* model, const LoadFlags& load) const;
};

// A check of CLI11's for numbers from 0 on, whose own one tells the largest double.
std::string not_negative(const std::string& number);

// --json, where a program reads.
void add_json_flag(CLI::App* command, bool* json);

}  // namespace commands
